"""What a request is charged: an upper bound of its bytes, in units of one vLLM block.

The scheduler decides before a step runs, so the charge must not depend on what the worker finds. The native cache promises such a bound:
`leankv.Plan.bytes_at_most(tokens, prompt, kv)`. This module only names the cache's shape, and rounds up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import leankv


@dataclass(frozen=True, kw_only=True)
class Charge:
    """A cache's shape and what requests are charged. Numbers and texts only: it is compared, hashed, and sent between processes."""

    layers: int
    kv_heads: int
    """KV heads of this rank."""
    group: int
    """Query heads that share a KV head."""
    head_dim: int
    kv: str
    """The way of compressing that requests take when they name none."""
    chunk: int
    """Tokens of a prompt that are compressed together."""
    input: str
    """Element type of keys and values as the model makes them: bf16, f16 or f32."""
    max_tokens: int
    """Tokens of the longest request."""
    unit_bytes: int
    """Bytes that one vLLM block stands for, all layers together."""

    @property
    def plan(self) -> leankv.Plan:
        return _plan(
            self.layers, self.kv_heads, self.group, self.head_dim, self.kv, self.chunk, self.input, self.max_tokens
        )

    def units(self, tokens: int, prompt: int, kv: str | None = None, piece: int | None = None) -> int:
        """vLLM blocks that a request may hold up to the end of the step after which it has `tokens` tokens.

        `prompt` of the tokens come as its prompt, at most `piece` in a step (any number without). `kv` is the request's own choice. At least 1.
        """
        return max(1, -(-self.plan.bytes_at_most(tokens, prompt, kv, piece) // self.unit_bytes))

    def units_of_decoding(self, tokens: int) -> int:
        """vLLM blocks of a request of `tokens` tokens whose prompt has come."""
        return self.units(tokens, max(1, tokens - 1))

    def units_of_longest(self, kv: str | None = None) -> int:
        """vLLM blocks of a request of `max_tokens` tokens: as a prompt of that length, or one token's prompt and the rest decoded."""
        return max(self.units(self.max_tokens, prompt, kv) for prompt in (1, self.max_tokens))

    def memory_problem(self, blocks: int, ways: Iterable[str | None] = (None,)) -> str | None:
        """One sentence where the longest request would never fit into `blocks` vLLM blocks, of which vLLM keeps one for itself; else None."""
        mib = self.unit_bytes / 2**20
        needed, way = max(((self.units_of_longest(way), way) for way in ways), key=lambda each: each[0])
        if needed <= blocks - 1:
            return None
        return (
            f"The KV memory holds {max(0, blocks - 1) * mib:.1f} MiB, and one request of max_model_len {self.max_tokens} may take "
            f"{needed * mib:.1f} MiB at {way or self.kv}: give at least {(needed + 1) * mib:.1f} MiB with "
            "--kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE (GiB), or lower --max-model-len."
        )

    def canonical(self, kv: str) -> str:
        """The canonical text of a way of compressing. Raises ValueError, one sentence, where it does not parse."""
        return _plan(
            self.layers, self.kv_heads, self.group, self.head_dim, kv, self.chunk, self.input, self.max_tokens
        ).kv


@functools.lru_cache(maxsize=64)
def _plan(
    layers: int, kv_heads: int, group: int, head_dim: int, kv: str, chunk: int, input: str, max_tokens: int
) -> leankv.Plan:
    from .native import leankv

    return leankv.Plan(
        layers=layers,
        kv_heads=kv_heads,
        group=group,
        head_dim=head_dim,
        kv=kv,
        chunk=chunk,
        input=input,
        max_tokens=max_tokens,
    )
