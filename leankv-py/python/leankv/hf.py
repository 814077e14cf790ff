"""A cache for `generate` of transformers.

    model.generate(**inputs, past_key_values=leankv.hf.HFCache("K8V4/K4V2@1/5"))

`HFCache` holds the keys and values of a decoder-only model on the host. `update`, which the model calls with a layer's new keys and values, marks the keys; attention, which it
calls next, is done by `leankv.Cache` where they are marked. That is why importing this module registers a function over "sdpa" in transformers' `ALL_ATTENTION_FUNCTIONS`; it
passes everything else on. What cannot be done is refused in one sentence, never approximated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, NoReturn

try:
    import torch
    from transformers.cache_utils import Cache
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
except ImportError as error:
    raise ImportError(f"HFCache needs torch and transformers ({error}): pip install torch transformers.") from error

from . import _native

__all__ = ["HFCache"]

#: The attribute of marked keys.
_MARK = "_leankv_pending"
_INPUTS = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
#: What models pass to attention that would change its result.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache")


@dataclass(frozen=True)
class _Pending:
    """Keys and values of a layer that wait for its attention."""

    cache: HFCache
    layer: int


class HFCache(Cache):
    """Keys and values of a batch, compressed, for models of transformers on the host.

    kv: what they are coded as and what stays, such as "fp16", "K8V4", "K8V4/K4V2@1/5" or "@1/5". chunk: tokens of a chunk of a prompt; its end is where tokens get their place.
    max_tokens: the longest sequence, prompt included. pages: of the native cache; as many as all rows may take if not given.

    The first forward pass is the prompt, of any length; each one after it has one token a row. `reset` makes room for another prompt.
    """

    def __init__(
        self, kv: str = "@1/5", *, chunk: int = 512, max_tokens: int = 4096, pages: int | None = None
    ) -> None:
        super().__init__(layers=[])
        self._kv, self._chunk, self._max_tokens, self._pages = kv, chunk, max_tokens, pages
        # A text that means nothing is refused now; extents that any model may have.
        _native.Plan(layers=1, kv_heads=1, group=1, head_dim=64, kv=_of_first_layers(kv), chunk=chunk, max_tokens=max_tokens)
        self._native: _native.Cache | None = None
        self._tokens = 0
        self._rows = 0
        #: Keys that were marked and not attended to yet.
        self._waits: torch.Tensor | None = None
        self._step: int | None = None
        self._next = 0
        self._register()

    @staticmethod
    def _register() -> None:
        current = ALL_ATTENTION_FUNCTIONS["sdpa"]
        if not getattr(current, "_leankv", False):
            ALL_ATTENTION_FUNCTIONS.register("sdpa", _over(current))

    # What the model calls.

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a layer's new keys and values, `[rows, kv_heads, tokens, head_dim]`, and returns them: attention comes next."""
        rows, _, tokens, _ = key_states.shape
        if self._waits is not None:
            _refuse('attention did not reach it: load the model with attn_implementation="sdpa"; reset() if a forward pass was interrupted')
        if layer_idx != self._next:
            _refuse(
                f"layer {self._next} is next and {layer_idx} came: layers come in order, and a forward pass that was left in its middle needs reset()"
            )
        if key_states.device.type != "cpu":
            _refuse(f"the model lies on {key_states.device}: it takes models on the host alone")
        if key_states.dtype not in _INPUTS:
            _refuse(f"keys are of {key_states.dtype}: it takes bfloat16, float16 and float32")
        if key_states.shape != value_states.shape:
            _refuse(f"keys are {list(key_states.shape)} and values {list(value_states.shape)}: it takes those of one shape")
        if layer_idx == 0:
            self._check_rows(rows, tokens)
        # A view of its own, so that the mark is on nothing that the model uses elsewhere.
        marked = key_states.view_as(key_states)
        setattr(marked, _MARK, _Pending(self, layer_idx))
        self._waits = marked
        return marked, value_states

    def _check_rows(self, rows: int, tokens: int) -> None:
        if self._tokens and rows != self._rows:
            _refuse(f"its batch has {self._rows} rows, and {rows} came: make a new one or reset()")
        if self._tokens and tokens != 1:
            _refuse(f"{tokens} tokens came after the prompt: one a row comes in a forward pass; for another prompt make a new one or reset()")
        if self._tokens + tokens > self._max_tokens:
            _refuse(f"{self._tokens + tokens} tokens do not fit: give it max_tokens of as many")

    def _attend(
        self,
        layer: int,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float,
        scaling: float | None,
        is_causal: bool | None,
        kwargs: dict[str, Any],
    ) -> tuple[torch.Tensor, None]:
        rows, heads, tokens, head_dim = query.shape
        kv_heads = key.shape[1]
        self._waits = None
        _check_attention(module, query, dropout, scaling, is_causal, kwargs)
        window = kwargs.get("sliding_window")
        if window is not None and window < self._max_tokens:
            _refuse(f"layer {layer} has a sliding window of {window} tokens: it takes layers that see all tokens")
        if not _is_plain(attention_mask, tokens, self._tokens + tokens):
            _refuse("the attention mask is not the plain causal one: it takes batches of rows of one length, without padding")
        if layer == 0:
            self._begin(module, rows, [kv_heads, heads // kv_heads, head_dim], tokens, query.dtype)
        native, layers = self._native, self._layers
        assert native is not None and self._step is not None
        q, k, v = (x.detach().transpose(1, 2).reshape(rows * tokens, -1, head_dim) for x in (query, key, value))
        out = torch.empty_like(q)
        native.layer(self._step, layer, q, k, v, out)
        self._next = layer + 1
        if self._next == layers:
            native.finish(self._step)
            self._step, self._next = None, 0
            self._tokens += tokens
        return out.view(rows, tokens, heads, head_dim), None

    def _begin(self, module: Any, rows: int, extents: list[int], tokens: int, dtype: torch.dtype) -> None:
        """Begins the step of a forward pass; the first one makes the native cache."""
        kv_heads, group, head_dim = extents
        layers = module.config.num_hidden_layers
        shape = dict(layers=layers, kv_heads=kv_heads, group=group, head_dim=head_dim, input=_INPUTS[dtype])
        plan = _native.Plan(kv=self._kv, chunk=self._chunk, max_tokens=self._max_tokens, **shape)
        if self._native is None or self._native.plan != plan or self._rows != rows:
            # Most in the prompt, then as it grows, and what a late demotion may lack.
            most = max(plan.pages_at_most(tokens, tokens), plan.pages_at_most(self._max_tokens, tokens))
            pages = self._pages or rows * (most + 2 * plan.lists)
            self._native = _native.Cache(plan, slots=rows, pages=pages)
        self._rows, self._layers = rows, layers
        if not self._native.handles():
            for row in range(rows):
                self._native.admit(row, tokens)
        self._step = self._native.begin([(row, tokens) for row in range(rows)])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of a row so far, kept or not."""
        return self._tokens

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Tokens that a mask is for, and the first of them."""
        return self._tokens + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The longest sequence."""
        return self._max_tokens

    def reset(self) -> None:
        """Forgets all rows."""
        if self._native is not None:
            self._native.free(self._native.handles())
        self._tokens, self._next, self._step, self._waits = 0, 0, None, None

    # What one asks it.

    def stats(self) -> dict[str, float]:
        """What all rows hold: `bytes` of their pages, `fp16_bytes` of the same tokens in FP16, `compression`, which is one over the other, `pages`, (token, layer, KV head)
        triples that are `high`, `low` and `pruned`, and `tokens` of a row so far. Bytes are true ones, of whole pages, with scales, positions and padding."""
        of_rows = {"bytes": 0, "fp16_bytes": 0, "pages": 0, "high": 0, "low": 0, "pruned": 0}
        if self._native is not None:
            totals = self._native.totals()
            of_rows = {name: totals[name] for name in of_rows}
        compression = of_rows["fp16_bytes"] / of_rows["bytes"] if of_rows["bytes"] else 1.0
        return {**of_rows, "compression": compression, "tokens": self._tokens}

    @property
    def native(self) -> _native.Cache | None:
        """The cache beneath it, whose requests are the numbers of the rows; none before the first forward pass."""
        return self._native

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first forward pass."""
        return self._rows or -1

    @property
    def is_compileable(self) -> bool:
        """No: attention is not a graph of torch's."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether a prompt is there."""
        return self._native is not None

    @property
    def is_croppable(self) -> bool:
        """No: which tokens stay depends on those after them."""
        return False

    def __len__(self) -> int:
        return self._native.plan.layers if self._native is not None else 0

    def __repr__(self) -> str:
        return f"HFCache({self._kv!r}, chunk={self._chunk}, max_tokens={self._max_tokens}; {self._rows} rows of {self._tokens} tokens)"

    # What it cannot do.

    def crop(self, tokens_to_remove: int) -> None:
        """Refused unless it is none."""
        if tokens_to_remove:
            _refuse("tokens cannot be taken back: generate without an assistant model or prompt lookup")

    def activate_past_recording(self) -> NoReturn:
        """Refused."""
        _refuse("tokens cannot be taken back: generate without an assistant model or prompt lookup")

    def reorder_cache(self, beam_idx: torch.Tensor) -> NoReturn:
        """Refused."""
        _refuse("rows cannot change places: generate without beams (num_beams=1)")

    def batch_repeat_interleave(self, repeats: int) -> NoReturn:
        """Refused."""
        _refuse("rows cannot be repeated: give the batch as it is to be from the prompt on")

    def batch_select_indices(self, indices: torch.Tensor) -> NoReturn:
        """Refused."""
        _refuse("rows cannot be selected: give the batch as it is to be from the prompt on")

    def early_initialization(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        _refuse("it cannot be made before the prompt, and no graph can be exported with it")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        _refuse("it cannot be copied: make a new one")

    def __reduce__(self) -> NoReturn:
        _refuse("it cannot be pickled: make a new one")


def _over(stock: Callable[..., tuple[torch.Tensor, Any]]) -> Callable[..., tuple[torch.Tensor, Any]]:
    """The attention function that does marked keys itself and leaves all others to `stock`."""

    def attention(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        pending: _Pending | None = getattr(key, _MARK, None)
        if pending is None:
            return stock(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs)
        return pending.cache._attend(
            pending.layer, module, query, key, value, attention_mask, dropout, scaling, is_causal, kwargs
        )

    attention._leankv = True  # type: ignore[attr-defined]
    return attention


def _check_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    dropout: float,
    scaling: float | None,
    is_causal: bool | None,
    kwargs: dict[str, Any],
) -> None:
    """Refuses attention that is not plain."""
    head_dim = query.shape[-1]
    for name in _UNKNOWN:
        if kwargs.get(name) is not None:
            _refuse(f"the model's attention has `{name}`: it takes plain attention")
    if scaling is not None and abs(scaling * head_dim**0.5 - 1) > 1e-6:
        _refuse(f"the model multiplies logits by {scaling}: it takes 1 / sqrt(head_dim), which is {head_dim**-0.5}")
    if dropout:
        _refuse("attention has dropout: call eval() of the model")
    if torch.is_grad_enabled() and query.requires_grad:
        _refuse("it has no gradients: call the model under torch.no_grad()")
    if kwargs.get("output_attentions"):
        _refuse("it gives no attention weights: leave output_attentions out")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if not causal:
        _refuse("the model's attention looks ahead: it takes causal attention")


def _is_plain(mask: torch.Tensor | None, tokens: int, seen: int) -> bool:
    """Whether a mask leaves each of the last `tokens` tokens what was seen up to it."""
    if mask is None:
        return True
    if mask.dim() != 4 or tuple(mask.shape[-2:]) != (tokens, seen):
        return False
    sees = mask if mask.dtype == torch.bool else mask == 0
    plain = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens)
    return bool((sees == plain).all())


def _of_first_layers(kv: str) -> str:
    """A choice without what it says of single layers, which are checked with the model's."""
    head, *rest = kv.split("@", 1)
    return "@".join([head.split(";")[0], *rest])


def _refuse(why: str) -> NoReturn:
    raise ValueError(f"HFCache: {why}.")


HFCache._register()
