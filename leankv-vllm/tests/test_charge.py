"""The charge is an upper bound of what a request holds, in whole vLLM blocks."""

from __future__ import annotations

import pickle
import random

import pytest

pytest.importorskip("torch", reason="torch is not installed: run scripts/vllm/install.sh DIR and use DIR/bin/python")


def charge(**changes):
    from leankv_vllm.charge import Charge

    shape = dict(
        layers=2, kv_heads=2, group=2, head_dim=64, kv="K8V4/K4V2@1/5", chunk=128, input="bf16", max_tokens=1024, unit_bytes=8192
    )
    return Charge(**{**shape, **changes})


WAYS = [None, "fp16", "K8V4"]


@pytest.mark.parametrize("kv", WAYS)
@pytest.mark.parametrize("prompt", [1, 100, 512, 1024])
def test_units_hold_the_bound_and_waste_less_than_one(kv, prompt):
    each = charge()
    for tokens in range(1, 1025, 31):
        units, bound = each.units(tokens, prompt, kv), each.plan.bytes_at_most(tokens, prompt, kv)
        assert units >= 1
        assert units * each.unit_bytes >= bound
        assert (units - 1) * each.unit_bytes < max(bound, 1)


def test_a_prompt_is_never_charged_less_when_more_of_it_is_there():
    each = charge()
    for prompt in (100, 700):
        units = [each.units(tokens, prompt) for tokens in range(1, prompt + 1)]
        assert units == sorted(units)


def test_the_longest_request_is_the_dearest():
    each = charge()
    for kv in WAYS:
        most = max(each.units(tokens, prompt, kv) for tokens in (1, 500, 1024) for prompt in (1, 500, 1024) if prompt <= tokens)
        assert each.units_of_longest(kv) >= most


def test_it_travels_between_processes_and_compares_by_value():
    each = charge()
    again = pickle.loads(pickle.dumps(each))
    assert again == each and hash(again) == hash(each)
    assert again.units(300, 200) == each.units(300, 200)
    assert charge(kv="fp16") != each


def test_a_text_that_is_no_way_is_refused_in_one_sentence():
    for text in ("K9V9", "", "@1/5/6"):
        with pytest.raises(ValueError) as error:
            charge().canonical(text)
        assert "\n" not in str(error.value)


def test_ways_are_compared_in_canonical_form():
    each = charge()
    assert each.canonical("k8v4/k4v2@1/5") == each.canonical("K8V4/K4V2@1/5")
    assert each.canonical(each.canonical("K8V4")) == each.canonical("K8V4")


@pytest.mark.native
@pytest.mark.parametrize("kv", ["K8V4/K4V2@1/5", "K8V4/K4V2@1/8", "K8V4", "fp16"])
def test_the_native_cache_never_holds_more_than_the_bound(kv):
    """Random lives over the real cache: prompts in pieces of any length, decodes, ends. After each step the pages are within the bound."""
    import leankv
    import torch

    draw = random.Random(kv)
    each = charge(kv=kv)
    cache = leankv.Cache(each.plan, slots=6, pages=40_000)
    generator = torch.Generator().manual_seed(1)

    def rows(n: int) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values as vLLM gives them: views of one tensor, with strided rows."""
        both = torch.randn(n, (4 + 2 + 2) * 64, generator=generator).to(torch.bfloat16)
        return both.split([4 * 64, 2 * 64, 2 * 64], dim=1)

    alive: dict[int, list[int]] = {}
    for step in range(300):
        if len(alive) < 6 and draw.random() < 0.3:
            prompt = draw.choice([1, 5, 64, 130, 500, 900])
            cache.admit(step, prompt)
            alive[step] = [0, prompt]
        if not alive:
            continue
        parts = []
        for handle, (tokens, prompt) in alive.items():
            n = min(draw.choice([1, 7, 64, 128, 200]), prompt - tokens) if tokens < prompt else 1
            if draw.random() < 0.8:
                parts.append((handle, n))
        draw.shuffle(parts)
        if not parts:
            continue
        number = cache.begin(parts)
        n = sum(count for _, count in parts)
        for layer in range(2):
            out = torch.empty(n, 4 * 64, dtype=torch.bfloat16)
            cache.layer(number, layer, *rows(n), out)
        cache.finish(number)
        assert cache.audit() == []
        for handle, count in parts:
            alive[handle][0] += count
            assert cache.tokens(handle) == alive[handle][0]
        bound = sum(each.plan.pages_at_most(tokens, prompt) for tokens, prompt in alive.values() if tokens)
        held = cache.pages - cache.free_pages()
        assert held <= bound
        for handle, (tokens, prompt) in alive.items():
            if tokens:
                assert cache.stats(handle)["pages"] <= each.plan.pages_at_most(tokens, prompt)
        gone = [handle for handle, (tokens, prompt) in alive.items() if tokens >= 1000 or draw.random() < 0.03]
        cache.free(gone)
        for handle in gone:
            del alive[handle]
    cache.free(list(alive))
    assert cache.free_pages() == cache.pages
