"""vLLM's blocks as units of bytes, and one native cache over all of vLLM's KV memory.

* A request's row in the block table has one block: its number is the request's *handle*. The other blocks that it is charged never leave
  the scheduler's side (`manager`).
* The charge is an upper bound known from token counts alone, so scheduling needs no word from the worker (`..charge`).
* Requests' lives (admitted, ended) travel as a KV connector's metadata (`connector`), and are applied in `bind_connector_metadata`: the one
  hook that both of vLLM's model runners call after attention metadata is built and before the forward pass, and in steps without one.
* The worker opens one step of the native cache at the first layer of a forward pass and closes it after the last (`worker`, `backend`).
"""
