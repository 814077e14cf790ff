"""The scheduler's side of memory: what each request is charged, as vLLM blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..compat import KVCacheBlock, SingleTypeKVCacheManager

if TYPE_CHECKING:
    from .spec import LeanKvSpec


@dataclass
class Life:
    """What is known of a request from its admission to its end. A request that was preempted comes back with a new one."""

    prompt: int
    """Tokens that come as its prompt: all that it has when it is admitted."""
    kv: str | None
    """Its own way of compressing, or None."""
    tokens: int = 0
    """Tokens that the charge covers, those of steps in flight included."""
    piece: int = 1
    """The most tokens of its prompt that a step has brought, or is to bring."""
    hidden: list[KVCacheBlock] = field(default_factory=list)
    """Blocks that it is charged beside its handle. The worker never sees them."""


class LeanKvManager(SingleTypeKVCacheManager):
    """Charges requests by `Charge.units`, in the calls that vLLM makes for each scheduled request, in this order:
    `remove_skipped_blocks`, `get_num_blocks_to_allocate`, `allocate_new_blocks`; `pop_blocks_for_free` at its end.

    The row of a request (`req_to_blocks`) has one block, its handle. It does not grow: blocks that were refunded and taken again would be
    appended to the worker's row, which has a fixed length.
    """

    def __init__(self, kv_cache_spec: LeanKvSpec, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, **kwargs)
        self.charge = kv_cache_spec.charge
        self.lives: dict[str, Life] = {}

    def expect(self, request_id: str, prompt: int, kv: str | None) -> None:
        """Tells of a request that is about to be admitted. Its prompt is `prompt` tokens. May be called again until it has blocks."""
        if not self.req_to_blocks.get(request_id):
            self.lives[request_id] = Life(prompt=prompt, kv=kv)

    def held(self, request_id: str) -> int:
        """Blocks that a request is charged now."""
        life = self.lives.get(request_id)
        return len(self.req_to_blocks.get(request_id, ())) + (len(life.hidden) if life else 0)

    def units(self, request_id: str, tokens: int) -> int:
        """Blocks that a request is charged up to the end of the step after which it has `tokens` tokens."""
        life = self.lives.get(request_id)
        if life is None:
            raise RuntimeError(
                f"internal error: the connector did not tell of request {request_id} before it was given memory."
            )
        return self.charge.units(tokens, life.prompt, life.kv, life.piece)

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Sequence[KVCacheBlock],
        total_computed_tokens: int,
        num_local_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
        prefill_end: int = 0,
    ) -> int:
        """Blocks that are missing until the request has `num_tokens` tokens."""
        if life := self.lives.get(request_id):
            life.piece = max(life.piece, min(num_tokens, life.prompt) - total_computed_tokens)
        return max(0, self.units(request_id, num_tokens) - self.held(request_id))

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> list[KVCacheBlock]:
        """Takes what is missing. Gives back the handle at admission, and nothing later."""
        missing = self.units(request_id, num_tokens) - self.held(request_id)
        life = self.lives[request_id]
        life.tokens = max(life.tokens, num_tokens)
        if missing <= 0:
            return []
        blocks = self.block_pool.get_new_blocks(missing)
        row = self.req_to_blocks[request_id]
        if row:
            life.hidden.extend(blocks)
            return []
        row.append(blocks[0])
        life.hidden.extend(blocks[1:])
        return blocks[:1]

    def allocate_external_computed_blocks(
        self,
        request_id: str,
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
        record_for_zeroing: bool = True,
    ) -> None:
        """Nothing: no tokens come from outside. `allocate_new_blocks` follows for a request that the connector is about to fail."""

    def remove_skipped_blocks(
        self, request_id: str, processed_computed_tokens: int, num_prompt_tokens: int | None = None
    ) -> None:
        """The refund: what a request needed for its prompt alone, once no step with a piece of it is in flight.

        The bound for one token more than the charge covers holds for the steps in flight and for the one that is being scheduled.
        """
        life = self.lives.get(request_id)
        if life is None or not life.hidden or processed_computed_tokens < life.prompt:
            return
        surplus = self.held(request_id) - self.units(request_id, life.tokens + 1)
        if surplus > 0:
            kept = len(life.hidden) - min(surplus, len(life.hidden))
            gone = life.hidden[kept:]
            del life.hidden[kept:]
            self.block_pool.free_blocks(reversed(gone))

    def pop_blocks_for_free(self, request_id: str) -> list[KVCacheBlock]:
        """All blocks of a request that ended or was preempted; its life ends with it."""
        blocks = super().pop_blocks_for_free(request_id)
        life = self.lives.pop(request_id, None)
        return blocks + life.hidden if life else blocks

    def cache_blocks(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: there is no prefix caching."""

    @classmethod
    def find_longest_cache_hit(
        cls, block_hashes: Any, max_length: int, kv_cache_group_ids: list[int], *args: Any, **kwargs: Any
    ) -> tuple[tuple[list[KVCacheBlock], ...], int]:
        """Never a hit."""
        return tuple([] for _ in kv_cache_group_ids), 0
