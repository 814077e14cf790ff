"""LeanKV's KV cache inside unmodified vLLM.

vLLM calls `register` in every process through the entry point group `vllm.general_plugins`. The plugin does nothing until an engine names
the connector `LeanKvConnector` in its `kv_transfer_config`; every other engine of the process stays stock.
"""

import logging

__version__ = "0.1.0"


def register() -> None:
    """Makes the attention backend, the cache specification and the connector known to vLLM. May be called more than once."""
    from . import compat

    problem = compat.version_problem()
    if problem is not None:
        logging.getLogger(__name__).warning("leankv-vllm is off. %s", problem)
        return
    # The module registers the specification and its manager when it is imported.
    from .arena import select, spec  # noqa: F401

    compat.register_backend(compat.AttentionBackendEnum.CPU_ATTN, select.BACKEND_PATH)
    compat.register_connector("LeanKvConnector", "leankv_vllm.arena.connector")
