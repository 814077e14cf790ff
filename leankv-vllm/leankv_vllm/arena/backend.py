"""The attention backend: vLLM's batches into steps of the native cache."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ..compat import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    FullAttentionSpec,
    KVCacheLayout,
    MultipleOf,
    VllmConfig,
    get_current_vllm_config,
    get_kv_transfer_group,
)
from ..config import options_of, refuse
from .spec import LeanKvSpec, spec_of
from .worker import Step


class LeanKvBackend(AttentionBackend):
    """Attention over the arena. It stands in for vLLM's CPU backend, and so has its name."""

    # Keys and values are written by `forward`, in the same call that attends to them.
    forward_includes_kv_cache_update = True
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.bfloat16, torch.float16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[str]] = ["auto"]
    built_for: ClassVar[VllmConfig | None] = None
    """The engine whose layers were built last in this process. `customize_spec` follows, and is not told which engine it is for."""

    @staticmethod
    def get_name() -> str:
        return "CPU_ATTN"

    @staticmethod
    def get_impl_cls() -> type[LeanKvImpl]:
        return LeanKvImpl

    @staticmethod
    def get_builder_cls() -> type[LeanKvBuilder]:
        return LeanKvBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int | MultipleOf]:
        """Any: a block is a unit of bytes here."""
        return [MultipleOf(1)]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        return (KVCacheLayout.LBHNC,)

    @classmethod
    def customize_spec(cls, spec: Any) -> LeanKvSpec:
        """The arena's specification in place of vLLM's. May be called again with one of ours."""
        if isinstance(spec, LeanKvSpec):
            return spec
        if type(spec) is not FullAttentionSpec or spec.sliding_window or spec.attention_chunk_size or spec.non_causal:
            raise ValueError(
                f"LeanKV caches causal attention to all tokens, and this model has {type(spec).__name__}: use another model."
            )
        if spec.head_size_v not in (None, spec.head_size):
            raise ValueError(
                f"LeanKV takes keys and values of one size, and this model's are {spec.head_size} and {spec.head_size_v}: "
                "use another model."
            )
        if cls.built_for is None:
            raise RuntimeError("internal error: vLLM asks for a layer's cache before it has built a layer.")
        return spec_of(spec, cls.built_for, options_of(cls.built_for))


class LeanKvBuilder(AttentionMetadataBuilder[Step]):
    """Which requests a batch has, and how many rows each. What the requests are is known to the native cache alone."""

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> Step:
        """Requests need not be admitted yet: model runners differ in whether that comes before or after this call."""
        batch = common_attn_metadata
        handles = batch.block_table_tensor[: batch.num_reqs, 0].tolist()
        starts = batch.query_start_loc_cpu[: batch.num_reqs + 1].tolist()
        rows = [after - before for before, after in zip(starts, starts[1:])]
        parts = [(handle, n) for handle, n in zip(handles, rows) if n > 0]
        return Step(get_kv_transfer_group().cache, parts)


class LeanKvImpl(AttentionImpl[Step]):
    """One layer. Refuses, when the model is built, layers that LeanKV does not do."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
        **others: Any,
    ) -> None:
        LeanKvBackend.built_for = get_current_vllm_config()
        refuse(LeanKvBackend.built_for)
        if sliding_window is not None:
            raise ValueError(
                f"LeanKV keeps what matters of all tokens, and this model has a sliding window of {sliding_window} tokens: "
                "use a model without one, or --disable-sliding-window where the context is no longer than it."
            )
        if alibi_slopes is not None:
            raise ValueError("LeanKV does not add ALiBi's biases: use a model with rotary or absolute positions.")
        if logits_soft_cap:
            raise ValueError("LeanKV does not cap attention scores: use a model without a soft cap.")
        if sinks is not None:
            raise ValueError("LeanKV does not do learned attention sinks: use a model without them.")
        if attn_type != AttentionType.DECODER:
            raise ValueError(f"LeanKV does a decoder's attention, and this layer's is {attn_type}: use another model.")
        if kv_sharing_target_layer_name is not None:
            raise ValueError("LeanKV does not share a layer's keys and values with another: use another model.")
        if abs(scale * head_size**0.5 - 1) > 1e-6:
            raise ValueError(
                f"LeanKV scales scores by 1/sqrt(head size), and this model scales them by {scale}: use another model."
            )
        if any(others.values()):
            names = ", ".join(sorted(name for name, value in others.items() if value))
            raise ValueError(f"LeanKV does not do what this model asks of attention ({names}): use another model.")
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = scale
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.index: int | None = None

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Step | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of one batch.

        `query` and `output` are [rows, query heads, head size], `key` and `value` [rows, KV heads, head size]; rows may be strided.
        Without metadata (a profiling run) the output is zeros.
        """
        if attn_metadata is None:
            return output.fill_(0)
        if self.index is None:
            self.index = get_kv_transfer_group().layer_index(layer.layer_name)
        attn_metadata.layer(self.index, query, key, value, output)
        return output
