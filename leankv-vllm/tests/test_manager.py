"""The manager's bookkeeping over vLLM's own pool of blocks: nothing is lost, and a row has one block."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

BLOCKS = 101


class Costs:
    """A charge that is easy to work out: a unit for each 10 tokens; while the prompt comes, twice as much."""

    unit_bytes = 1000

    def units(self, tokens: int, prompt: int, kv: str | None = None, piece: int | None = None) -> int:
        return max(1, -(-tokens // (100 if kv == "cheap" else 10)) * (2 if tokens <= prompt else 1))


@pytest.fixture
def manager(vllm):
    from leankv_vllm.arena.manager import LeanKvManager
    from vllm.v1.core.block_pool import BlockPool

    spec = SimpleNamespace(charge=Costs(), block_size=16, dcp_sharded=False)
    pool = BlockPool(num_gpu_blocks=BLOCKS, enable_caching=False, hash_block_size=16)
    return LeanKvManager(
        spec, block_pool=pool, enable_caching=False, kv_cache_group_id=0, scheduler_block_size=16
    )


def free(manager) -> int:
    return manager.block_pool.get_num_free_blocks()


def schedule(manager, name: str, computed: int, new: int, in_flight: int = 0) -> list[int] | None:
    """What vLLM's `allocate_slots` asks of a manager: numbers of the blocks that the worker is told, or None where they do not fit."""
    manager.remove_skipped_blocks(name, max(0, computed - in_flight), num_prompt_tokens=computed)
    missing = manager.get_num_blocks_to_allocate(name, computed + new, [], computed, computed, computed + new, prefill_end=0)
    if missing > free(manager):
        return None
    before = free(manager)
    told = manager.allocate_new_blocks(name, computed + new, computed + new)
    assert before - free(manager) == missing, "what was announced was not what was taken"
    return [block.block_id for block in told]


def test_a_row_has_one_block_and_the_rest_is_hidden(manager):
    manager.expect("a", 100, None)
    (handle,) = schedule(manager, "a", 0, 100)
    assert handle != 0, "the null block is nobody's handle"
    assert [block.block_id for block in manager.req_to_blocks["a"]] == [handle]
    assert manager.held("a") == 20
    assert free(manager) == BLOCKS - 1 - 20


def test_later_blocks_are_not_told(manager):
    manager.expect("a", 100, None)
    schedule(manager, "a", 0, 30)
    assert manager.held("a") == 6
    assert schedule(manager, "a", 30, 70) == []
    assert manager.held("a") == 20
    assert len(manager.req_to_blocks["a"]) == 1


def test_what_the_prompt_needed_is_refunded_after_it(manager):
    manager.expect("a", 100, None)
    schedule(manager, "a", 0, 100)
    assert schedule(manager, "a", 100, 1) == []
    assert manager.held("a") == 11
    assert free(manager) == BLOCKS - 1 - 11


def test_nothing_is_refunded_while_a_piece_of_the_prompt_is_in_flight(manager):
    manager.expect("a", 100, None)
    schedule(manager, "a", 0, 100)
    schedule(manager, "a", 100, 1, in_flight=100)
    assert manager.held("a") == 20
    schedule(manager, "a", 101, 1, in_flight=1)
    assert manager.held("a") == 11


def test_the_charge_covers_tokens_in_flight(manager):
    manager.expect("a", 10, None)
    schedule(manager, "a", 0, 10)
    for computed in range(10, 60):
        schedule(manager, "a", computed, 1, in_flight=1)
        assert manager.held("a") >= manager.charge.units(computed + 1, 10)


def test_a_request_pays_for_its_own_way(manager):
    manager.expect("a", 100, "cheap")
    schedule(manager, "a", 0, 100)
    assert manager.held("a") == 2


def test_a_request_that_does_not_fit_takes_nothing(manager):
    manager.expect("a", 400, None)
    schedule(manager, "a", 0, 400)
    manager.expect("b", 300, None)
    assert schedule(manager, "b", 0, 300) is None
    assert manager.held("b") == 0
    manager.free("b")
    manager.free("a")
    assert free(manager) == BLOCKS - 1


def test_a_preempted_request_comes_back_with_all_its_tokens_as_its_prompt(manager):
    manager.expect("a", 100, None)
    schedule(manager, "a", 0, 100)
    schedule(manager, "a", 100, 1)
    manager.free("a")
    assert free(manager) == BLOCKS - 1
    manager.expect("a", 150, None)
    assert len(schedule(manager, "a", 0, 150)) == 1
    assert manager.held("a") == 30


def test_a_waiting_request_may_be_told_of_again_and_a_running_one_is_not_changed(manager):
    manager.expect("a", 100, None)
    manager.expect("a", 120, "cheap")
    assert manager.lives["a"].prompt == 120
    schedule(manager, "a", 0, 120)
    manager.expect("a", 7, None)
    assert (manager.lives["a"].prompt, manager.lives["a"].kv) == (120, "cheap")


def test_a_request_that_nobody_told_of_is_an_internal_error(manager):
    with pytest.raises(RuntimeError, match="did not tell of request a"):
        schedule(manager, "a", 0, 10)


def test_the_end_of_an_unknown_request_is_nothing(manager):
    manager.free("a")
    assert free(manager) == BLOCKS - 1


def test_no_prefix_is_ever_found(manager):
    assert manager.find_longest_cache_hit([], 10, [0], manager.block_pool) == (([],), 0)


@pytest.mark.parametrize("seed", range(20))
def test_random_lives_lose_no_block(manager, seed):
    draw = random.Random(seed)
    running: dict[str, list[int]] = {}
    for step in range(400):
        if draw.random() < 0.2:
            name = f"r{step}"
            prompt = draw.randrange(1, 200)
            manager.expect(name, prompt, draw.choice([None, "cheap"]))
            first = draw.randrange(1, prompt + 1)
            told = schedule(manager, name, 0, first)
            if told is None:
                manager.free(name)
            else:
                assert len(told) == 1
                running[name] = [first, prompt]
        for name in list(running):
            tokens, prompt = running[name]
            new = min(draw.randrange(1, 80), prompt - tokens) if tokens < prompt else 1
            told = schedule(manager, name, tokens, new, in_flight=draw.choice([0, 1]) if tokens > prompt else 0)
            if told is None or draw.random() < 0.03:
                manager.free(name)
                del running[name]
                continue
            assert told == []
            running[name][0] += new
        handles = [manager.req_to_blocks[name][0].block_id for name in running]
        assert len(set(handles)) == len(handles)
        assert sum(map(manager.held, running)) == BLOCKS - 1 - free(manager)
        assert set(manager.lives) == set(running)
    for name in running:
        manager.free(name)
    assert free(manager) == BLOCKS - 1
