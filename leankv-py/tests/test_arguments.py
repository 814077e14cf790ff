"""Arguments that mean nothing, or that would reach memory of others: each is refused, and the cache goes on."""

from __future__ import annotations

import gc

import leankv
import numpy as np
import pytest

ROWS, Q, KV = 5, 256, 128
F32 = np.float32


def plan(**changes) -> leankv.Plan:
    shape = dict(layers=2, kv_heads=2, group=2, head_dim=64, kv="fp16", max_tokens=300, chunk=32, input="f32")
    return leankv.Plan(**{**shape, **changes})


@pytest.fixture
def cache() -> leankv.Cache:
    cache = leankv.Cache(plan(), slots=4, pages=200)
    cache.admit(1, ROWS)
    return cache


def tensors(seed: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((ROWS, width)).astype(F32) for width in (Q, KV, KV)]


def outputs(cache: leankv.Cache, *layer: np.ndarray) -> np.ndarray:
    """Both layers of a step with the same tensors; what the second one gives."""
    step = cache.begin([(1, ROWS)])
    out = np.empty((ROWS, Q), F32)
    for number in range(2):
        cache.layer(step, number, *layer, out)
    cache.finish(step)
    assert cache.audit() == []
    return out


def record_fields(x: np.ndarray) -> np.ndarray:
    """The same numbers as a field of records that have a byte more: 5 bytes apart."""
    records = np.zeros(x.shape, [("x", "<f4"), ("byte", "u1")])
    records["x"] = x
    return records["x"]


def shifted(x: np.ndarray, by: int) -> np.ndarray:
    memory = np.zeros(x.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 16 + by
    view = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[:] = x
    return view


BAD = {
    "fields of records": lambda q, k, v, out: (q, record_fields(k), v, out),
    "rows backwards": lambda q, k, v, out: (q[::-1], k, v, out),
    "columns backwards": lambda q, k, v, out: (q[:, ::-1], k, v, out),
    "one row for all": lambda q, k, v, out: (q, np.broadcast_to(k[:1], k.shape), v, out),
    "other heads": lambda q, k, v, out: (q.reshape(ROWS, 8, 32), k, v, out),
    "heads first": lambda q, k, v, out: (np.ascontiguousarray(q.reshape(ROWS, 4, 64).transpose(1, 0, 2)).transpose(1, 0, 2), k, v, out),
    "one axis": lambda q, k, v, out: (q.reshape(-1), k, v, out),
    "four axes": lambda q, k, v, out: (q.reshape(ROWS, 2, 2, 64), k, v, out),
    "fewer rows": lambda q, k, v, out: (q[1:], k, v, out),
    "float64": lambda q, k, v, out: (q.astype(np.float64), k, v, out),
    "float16": lambda q, k, v, out: (q, k.astype(np.float16), v, out),
    "big-endian": lambda q, k, v, out: (q.astype(">f4"), k, v, out),
    "4 bytes on": lambda q, k, v, out: (shifted(q, 4), k, v, out),
    "1 byte on": lambda q, k, v, out: (shifted(q, 1), k, v, out),
    "no tensor": lambda q, k, v, out: (q, k, None, out),
    "a list": lambda q, k, v, out: (q, k, v.tolist(), out),
    "short tuple": lambda q, k, v, out: ((q.ctypes.data, Q), k, v, out),
    "negative address": lambda q, k, v, out: ((-1, Q, "f32"), k, v, out),
    "address 0": lambda q, k, v, out: ((0, Q, "f32"), k, v, out),
    "stride of 1": lambda q, k, v, out: ((q.ctypes.data, 1, "f32"), k, v, out),
    "stride of 2^62": lambda q, k, v, out: ((q.ctypes.data, 2**62, "f32"), k, v, out),
    "stride of 2^63": lambda q, k, v, out: ((q.ctypes.data, 2**63, "f32"), k, v, out),
    "another type": lambda q, k, v, out: ((q.ctypes.data, Q, "f64"), k, v, out),
    "read-only output": lambda q, k, v, out: (q, k, v, read_only(out)),
}


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("what", BAD)
def test_a_bad_tensor_is_refused_and_the_step_goes_on(cache, what):
    q, k, v = tensors()
    step = cache.begin([(1, ROWS)])
    out = np.full((ROWS, Q), 7, F32)
    with pytest.raises((TypeError, ValueError, leankv.LeanKvError)) as error:
        cache.layer(step, 0, *BAD[what](q, k, v, out))
    assert "\n" not in str(error.value) and (out == 7).all()
    expected = outputs(leankv_like(cache), q, k, v)
    np.testing.assert_array_equal(outputs(cache, q, k, v), expected)


def leankv_like(cache: leankv.Cache) -> leankv.Cache:
    other = leankv.Cache(cache.plan, slots=1, pages=200)
    other.admit(1, ROWS)
    return other


def test_a_file_that_is_mapped_to_be_read_is_not_written(cache, tmp_path):
    (tmp_path / "out").write_bytes(bytes(ROWS * Q * 4))
    out = np.memmap(tmp_path / "out", F32, "r", shape=(ROWS, Q))
    with pytest.raises(ValueError, match="read-only"):
        cache.layer(cache.begin([(1, ROWS)]), 0, *tensors(), out)


@pytest.mark.parametrize("kv", ["fp16", "K8V4/K4V2@1/3", "@1/5"])
def test_the_output_may_lie_over_the_input(kv):
    q, k, v = tensors()
    given = []
    for together in (False, True):
        cache = leankv.Cache(plan(kv=kv), slots=1, pages=400)
        cache.admit(1, ROWS)
        step = cache.begin([(1, ROWS)])
        of_layers = []
        for layer in range(2):
            side_by_side = np.concatenate([q, k, v], axis=1)
            parts = np.split(side_by_side, [Q, Q + KV], axis=1)
            # Over queries and, by a half, over keys.
            out = side_by_side[:, KV // 2 : KV // 2 + Q] if together else np.empty((ROWS, Q), F32)
            cache.layer(step, layer, *parts, out)
            of_layers.append(out.copy())
        cache.finish(step)
        given.append(of_layers)
    np.testing.assert_array_equal(given[0], given[1])


def test_heads_may_be_an_axis_and_addresses_do_as_well(cache):
    q, k, v = tensors()
    flat = outputs(cache, q, k, v)
    axes = outputs(leankv_like(cache), q.reshape(ROWS, 4, 64), k.reshape(ROWS, 2, 64), v.reshape(ROWS, 2, 64))
    addresses = outputs(leankv_like(cache), *((x.ctypes.data, x.shape[1], "f32") for x in (q, k, v)))
    np.testing.assert_array_equal(flat, axes)
    np.testing.assert_array_equal(flat, addresses)


def test_a_step_of_no_rows_does_nothing(cache):
    step = cache.begin([])
    for layer in range(2):
        cache.layer(step, layer, *(np.empty((0, width), F32) for width in (Q, KV, KV, Q)))
    cache.finish(step)
    assert cache.tokens(1) == 0 and cache.audit() == []


@pytest.mark.parametrize(
    ("parts", "blamed", "why"),
    [
        ([(1, 0)], 1, "at least one row"),
        ([(1, ROWS + 1)], 1, "5 tokens of its prompt are missing"),
        ([(1, 2**63)], 1, "missing"),
        ([(1, 2), (1, 2)], 1, "twice"),
        ([(1, 2), (9, 1)], 9, "not here"),
        ([(1, 2), (-(2**63), 1)], -(2**63), "not here"),
    ],
)
def test_a_part_that_cannot_be_names_its_request(cache, parts, blamed, why):
    with pytest.raises(leankv.RequestError, match=why) as error:
        cache.begin(parts)
    assert error.value.handle == blamed
    outputs(cache, *tensors())


def test_requests_are_named_by_their_handles_alone(cache):
    cache.admit(77, 300)
    with pytest.raises(leankv.RequestError, match="^request 5: its prompt has 301 tokens"):
        cache.admit(5, 301)
    outputs(cache, *tensors())
    with pytest.raises(leankv.RequestError, match="one row a step, not 2"):
        cache.begin([(1, 2)])
    step = cache.begin([(77, ROWS)])
    cache.layer(step, 0, *tensors(), np.empty((ROWS, Q), F32))
    with pytest.raises(leankv.RequestError, match="^request 77: it was left in the middle of a step"):
        cache.begin([(77, ROWS)])
    with pytest.raises(ValueError, match="no layer 2"):
        step = cache.begin([(1, 1)])
        cache.layer(step, 2, *(x[:1] for x in tensors()), np.empty((1, Q), F32))
    cache.free([77, 77, 12345])
    with pytest.raises(leankv.RequestError, match="not here"):
        cache.stats(77)


def test_a_step_whose_request_was_freed_says_so(cache):
    cache.admit(2, ROWS)
    both = [np.concatenate([x, x]) for x in tensors()]
    step = cache.begin([(1, ROWS), (2, ROWS)])
    cache.layer(step, 0, *both, np.empty((2 * ROWS, Q), F32))
    cache.free([1])
    with pytest.raises(leankv.LeanKvError, match="request of this step was freed"):
        cache.layer(step, 1, *both, np.empty((2 * ROWS, Q), F32))
    cache.free([2])
    assert cache.free_pages() == cache.pages and cache.audit() == []


@pytest.mark.parametrize("slots", [0, 2**40])
@pytest.mark.parametrize("pages", [0, 2**50, 2**63])
def test_sizes_that_cannot_be_are_refused(slots, pages):
    with pytest.raises(leankv.LeanKvError):
        leankv.Cache(plan(), slots=2, pages=pages)
    with pytest.raises(leankv.LeanKvError):
        leankv.Cache(plan(), slots=slots, pages=10)


def test_plans_count_without_wrapping_round():
    shape = plan(kv="K8V4/K4V2@1/5")
    with pytest.raises(ValueError, match="more bytes"):
        shape.fp16_bytes(2**60)
    # A sequence is no longer than the longest.
    assert shape.pages_at_most(2**62, 2**62) == shape.pages_at_most(300, 300)
    assert shape.pages_at_most(0, 0) == 0
    for piece in [dict(piece=0), dict(max_tokens=2**31), dict(chunk=2**62), dict(group=0), dict(kv_heads=2**40)]:
        with pytest.raises(ValueError):
            plan(**piece)
    with pytest.raises(ValueError, match="piece"):
        shape.pages_at_most(10, 10, None, 0)
    with pytest.raises((ValueError, OverflowError)):
        plan(layers=-1)


def test_an_arena_is_kept_while_its_cache_is():
    memory = np.zeros(2_000_000, np.uint8)
    cache = leankv.Cache(plan(), slots=1, arena=memory)
    assert cache.pages <= memory.nbytes // cache.page_bytes
    del memory
    gc.collect()
    others = [np.full(2_000_000, 255, np.uint8) for _ in range(4)]
    cache.admit(1, ROWS)
    q, k, v = tensors()
    np.testing.assert_array_equal(outputs(cache, q, k, v), outputs(leankv_like(cache), q, k, v))
    assert all((other == 255).all() for other in others)


def test_an_arena_that_cannot_be_written_is_refused():
    memory = np.zeros(1_000_000, np.uint8)
    for bad in [memory[::2], read_only(memory.copy()), (0, 100_000), (2**64 - 16, 100), 5, "memory", (memory.ctypes.data, -1)]:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            leankv.Cache(plan(), slots=1, arena=bad)
    with pytest.raises(ValueError, match="either pages"):
        leankv.Cache(plan(), slots=1)
    with pytest.raises(ValueError, match="either pages"):
        leankv.Cache(plan(), slots=1, pages=5, arena=memory)
