"""The cache specification: what vLLM must know of a layer's cache to share out memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..charge import Charge
from ..compat import FullAttentionSpec, VllmConfig, register_kv_cache_spec
from ..config import INPUTS, Options
from .manager import LeanKvManager


@register_kv_cache_spec(manager_class=LeanKvManager)
@dataclass(frozen=True, kw_only=True)
class LeanKvSpec(FullAttentionSpec):
    """One layer of the arena. All layers of a model have the same specification, and one group."""

    charge: Charge
    layers: int

    @classmethod
    def merge(cls, specs: Sequence[LeanKvSpec]) -> LeanKvSpec:
        """The base class builds a specification of its own fields alone, which would lose ours."""
        if any(spec != specs[0] for spec in specs):
            raise ValueError("LeanKV takes layers of one shape: this model mixes head sizes or numbers of KV heads.")
        return specs[0]

    @property
    def prefix_cacheable(self) -> bool:
        """Compressed content depends on more than the prefix."""
        return False

    def max_memory_usage_bytes(self, vllm_config: VllmConfig) -> int:
        """Bytes of this layer that a request of `max_model_len` tokens is charged while it decodes: how many fit, in vLLM's log.

        While its prompt comes a request is charged more; that one such request fits is checked apart (`Charge.memory_problem`).
        vLLM lowers `max_model_len` in search of one that fits, so the charge is asked for that length.
        """
        tokens = min(vllm_config.model_config.max_model_len, self.charge.max_tokens)
        return self.charge.units_of_decoding(tokens) * self.page_size_bytes


def spec_of(base: FullAttentionSpec, vllm_config: VllmConfig, options: Options) -> LeanKvSpec:
    """The arena's specification in place of one that vLLM made for a layer of full attention.

    Raises ValueError, one sentence, where a way of compressing does not parse, or the memory that was asked for is too little.
    """
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    known = {field.name: getattr(base, field.name) for field in fields(base) if field.init}
    known["block_size"] = options.unit_tokens
    layers = model.get_num_layers(parallel)
    per_layer = FullAttentionSpec(**known).page_size_bytes
    charge = Charge(
        layers=layers,
        kv_heads=base.num_kv_heads,
        group=model.get_num_attention_heads(parallel) // base.num_kv_heads,
        head_dim=base.head_size,
        kv=options.kv,
        chunk=options.chunk,
        input=INPUTS[str(model.dtype)],
        max_tokens=model.max_model_len,
        unit_bytes=layers * per_layer,
    )
    ways = [charge.canonical(way) for way in (options.kv, *options.more_kv)]
    # vLLM's own check tells of GiB with one decimal. It still serves where the length is left to vLLM, or the memory is what is free.
    memory = vllm_config.cache_config.kv_cache_memory_bytes
    if memory is not None and model.original_max_model_len != -1:
        if problem := charge.memory_problem(memory // charge.unit_bytes, ways):
            raise ValueError(problem)
    return LeanKvSpec(**known, charge=charge, layers=layers)
