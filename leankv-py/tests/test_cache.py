"""The cache through Python: attention, pieces of prompts, the bound, and what is refused."""

from __future__ import annotations

import pickle

import leankv
import numpy as np
import pytest

LAYERS, KV_HEADS, GROUP, DIM = 2, 2, 2, 64
HEADS = KV_HEADS * GROUP


def plan(kv: str = "fp16", **changes) -> leankv.Plan:
    shape = dict(layers=LAYERS, kv_heads=KV_HEADS, group=GROUP, head_dim=DIM, max_tokens=300, chunk=32, input="f32")
    return leankv.Plan(**{**shape, "kv": kv, **changes})


def rows(seed: int, n: int, dtype=np.float32):
    """Queries, keys and values of `n` tokens, side by side in one array: rows lie apart."""
    random = np.random.default_rng(seed)
    all_ = random.standard_normal((n, (HEADS + 2 * KV_HEADS) * DIM)).astype(dtype)
    return np.split(all_, [HEADS * DIM, (HEADS + KV_HEADS) * DIM], axis=1)


def attention(q, k, v):
    """Causal attention of all tokens, [tokens, query heads * DIM]."""
    n = len(q)
    q, k, v = (x.astype(np.float64).reshape(n, -1, DIM) for x in (q, k, v))
    k, v = (x.repeat(GROUP, axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / DIM**0.5
    scores[:, np.triu_indices(n, 1)[0], np.triu_indices(n, 1)[1]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)


def feed(cache: leankv.Cache, handle: int, tokens, pieces: list[int]):
    """Gives a request its tokens, of every layer, in these pieces; its outputs by layer."""
    outs = [[] for _ in range(LAYERS)]
    at = 0
    for n in pieces:
        step = cache.begin([(handle, n)])
        for layer, (q, k, v) in enumerate(tokens):
            out = np.full((n, HEADS * DIM + 8), np.nan, q.dtype)
            cache.layer(step, layer, q[at : at + n], k[at : at + n], v[at : at + n], out[:, : HEADS * DIM])
            assert np.isnan(out[:, HEADS * DIM :]).all(), "nothing is written between rows"
            outs[layer].append(out[:, : HEADS * DIM])
        cache.finish(step)
        at += n
    return [np.concatenate(out) for out in outs]


@pytest.mark.parametrize(("dtype", "name"), [(np.float32, "f32"), (np.float16, "f16")])
@pytest.mark.parametrize("pieces", [[50] + [1] * 6, [3, 29, 1, 17] + [1] * 6])
def test_attention_is_attention(dtype, name, pieces):
    cache = leankv.Cache(plan(input=name), slots=2, pages=400)
    tokens = [rows(layer, 56, dtype) for layer in range(LAYERS)]
    cache.admit(-5, 50)
    for got, (q, k, v) in zip(feed(cache, -5, tokens, pieces), tokens):
        np.testing.assert_allclose(got.astype(np.float64), attention(q, k, v), atol=1e-2)
    assert cache.tokens(-5) == 56
    assert cache.audit() == []


def test_a_cut_within_a_chunk_changes_no_bit():
    outs = []
    for pieces in ([32, 20], [1, 30, 1, 7, 13]):
        cache = leankv.Cache(plan("K8V4/K4V2@1/3"), slots=1, pages=400)
        cache.admit(1, 52)
        outs.append(feed(cache, 1, [rows(layer, 52) for layer in range(LAYERS)], pieces))
    for a, b in zip(*outs):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kv", ["fp16", "K8V4", "K8V4/K4V2@1/3", "@1/5", "K8V4/K4V2@1,0.02"])
def test_no_request_holds_more_than_the_bound(kv):
    random = np.random.default_rng(len(kv))
    shape = plan(kv)
    cache = leankv.Cache(shape, slots=4, pages=2000)
    lives: dict[int, list[int]] = {}
    for turn in range(60):
        if len(lives) < 4 and random.random() < 0.3:
            prompt = int(random.integers(1, 120))
            cache.admit(turn, prompt)
            lives[turn] = [prompt, 0]
        parts = []
        for handle, (prompt, done) in lives.items():
            left = prompt - done
            parts.append((handle, int(random.integers(1, left + 1)) if left > 0 else 1))
        random.shuffle(parts)
        n = sum(rows_ for _, rows_ in parts)
        if n == 0:
            continue
        step = cache.begin(parts)
        for layer in range(LAYERS):
            q, k, v = rows(turn * 7 + layer, n)
            cache.layer(step, layer, q, k, v, np.empty_like(q))
        cache.finish(step)
        for handle, more in parts:
            lives[handle][1] += more
            prompt, done = lives[handle]
            assert cache.stats(handle)["pages"] <= shape.pages_at_most(done, prompt, None), (handle, prompt, done)
        assert cache.audit() == []
        if lives and random.random() < 0.1:
            gone = int(random.choice(list(lives)))
            cache.free([gone, 10**9])
            del lives[gone]
    cache.free(list(lives))
    assert cache.free_pages() == cache.pages
    assert cache.totals()["requests"] == 0


def test_requests_of_several_kinds_share_memory_of_the_callers():
    memory = np.empty(4_000_001, np.uint8)
    cache = leankv.Cache(plan(), slots=3, arena=(memory.ctypes.data, memory.nbytes), more_kv=["K8V4/K4V2@1/3", "K8V4"])
    for handle, kv in enumerate([None, "K8V4/K4V2@1/3", "K8V4"]):
        cache.admit(handle, 200, kv)
        feed(cache, handle, [rows(layer, 200) for layer in range(LAYERS)], [200])
    held = [cache.stats(handle)["bytes"] for handle in range(3)]
    assert held[0] > held[2] > held[1]
    with pytest.raises(leankv.RequestError, match="more_kv") as error:
        cache.admit(9, 5, "K4V2")
    assert error.value.handle == 9
    assert cache.audit() == []


def test_a_plan_is_picklable_and_says_what_is_wrong():
    shape = plan("K8V4/K4V2@1/5")
    assert pickle.loads(pickle.dumps(shape)) == shape
    assert shape.fp16_bytes(10) == 10 * LAYERS * KV_HEADS * DIM * 4
    for changes in [dict(kv="K9"), dict(layers=2**60), dict(head_dim=7), dict(chunk=0), dict(input="f64"), dict(kv="K8V4+offset")]:
        with pytest.raises(ValueError) as error:
            plan(**changes)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="requests of one cache"):
        shape.pages_at_most(10, 10, "K8V4/K4V2@1/5:window=9")


def test_what_is_refused_leaves_the_step_as_it_was():
    cache = leankv.Cache(plan(), slots=2, pages=100)
    cache.admit(1, 4)
    with pytest.raises(leankv.RequestError, match="in use"):
        cache.admit(1, 4)
    with pytest.raises(leankv.RequestError, match="not here"):
        cache.begin([(1, 4), (2, 1)])
    with pytest.raises(leankv.LeanKvError):
        cache.begin([(1, 5)])
    step = cache.begin([(1, 4)])
    q, k, v = rows(1, 4)
    out = np.empty_like(q)
    for bad in [(q[:3], k, v, out), (q, k[:, :8], v, out), (q.astype(np.float16), k, v, out), (q, k, v, "x")]:
        with pytest.raises((ValueError, TypeError)):
            cache.layer(step, 0, *bad)
    with pytest.raises(ValueError, match="contiguous"):
        cache.layer(step, 0, q[:, ::-1], k, v, out)
    with pytest.raises(leankv.LeanKvError, match="next layer"):
        cache.layer(step, 1, q, k, v, out)
    with pytest.raises(leankv.LeanKvError, match="layers"):
        cache.finish(step)
    for layer in range(LAYERS):
        cache.layer(step, layer, q, k, v, out)
    cache.finish(step)
    with pytest.raises(ValueError, match="not under way"):
        cache.finish(step)
    # In the middle of a step, too.
    cache.layer(cache.begin([(1, 1)]), 0, q[:1], k[:1], v[:1], out[:1])
    cache.free([1])
    assert cache.free_pages() == cache.pages


def test_too_few_pages_are_an_error_of_their_own():
    cache = leankv.Cache(plan(), slots=2, pages=20)
    cache.admit(1, 20)
    step = cache.begin([(1, 20)])
    with pytest.raises(leankv.OutOfPages, match="free or preempt"):
        cache.admit(2, 20)
    for layer in range(LAYERS):
        q, k, v = rows(layer, 20)
        cache.layer(step, layer, q, k, v, np.empty_like(q))
    cache.finish(step)
    assert cache.tokens(1) == 20
    assert cache.audit() == []


def test_codecs_and_the_compiler():
    x = np.random.default_rng(3).standard_normal((5, DIM)).astype(np.float32)
    for codec, worst in [("affine8", 0.02), ("affine4", 0.3)]:
        coded = leankv.quantize(x, codec)
        assert np.abs(leankv.dequantize(coded) - x).max() < worst
    assert leankv.quantize(x, "affine4").codes.shape == (5, DIM // 2)
    with pytest.raises(ValueError):
        leankv.quantize(x, "affine99")
    ptx = leankv.compile("vector_add", "sm_90")
    assert ".target sm_90" in ptx
    with pytest.raises(ValueError, match="there is no kernel"):
        leankv.compile("nothing", "sm_90")
