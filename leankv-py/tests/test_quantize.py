"""Affine codecs against their formula in numpy, bit for bit, and what is refused."""

from __future__ import annotations

import leankv
import numpy as np
import pytest

F32 = np.float32


def floor16(x: np.ndarray) -> np.ndarray:
    """The largest float16 that is not above x."""
    near = x.astype(np.float16)
    return np.where(near.astype(F32) > x, np.nextafter(near, np.float16(-np.inf)), near)


def affine(x: np.ndarray, bits: int, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [rows, dim], scales and zeros [rows, groups]."""
    rows, dim = x.shape
    limit = F32(32640 if bits == 1 else 65280)
    x = x.reshape(rows, groups, dim // groups).clip(-limit, limit)
    zero = floor16(x.min(-1))
    # Rounded up is the negative of the negative rounded down.
    scale = -floor16(-((x.max(-1) - zero.astype(F32)) / F32(2**bits - 1)))
    wide = scale.astype(F32)[..., None]
    steps = np.divide(x - zero.astype(F32)[..., None], wide, out=np.zeros_like(x), where=wide > 0)
    codes = np.rint(steps).clip(0, 2**bits - 1)
    return codes.reshape(rows, dim).astype(int), scale, zero


def unpacked(packed: np.ndarray, bits: int, dim: int) -> np.ndarray:
    """Codes of rows: planes of 4, 2 and 1 bits, widest first, or one of all bits where that is a power of 2."""
    widths = [bits] if bits in (1, 2, 4, 8) else [width for width in (4, 2, 1) if bits & width]
    codes, at, shift = np.zeros((len(packed), dim), int), 0, 0
    for width in widths:
        plane = packed[:, at : at + dim * width // 8, None] >> np.arange(0, 8, width) & (2**width - 1)
        codes |= plane.reshape(len(packed), dim).astype(int) << shift
        at, shift = at + dim * width // 8, shift + width
    assert at == packed.shape[1]
    return codes


def rows_of_many_kinds(dim: int) -> np.ndarray:
    random = np.random.default_rng(dim)
    x = random.standard_normal((40, dim)).astype(F32) * np.exp2(random.integers(-20, 12, (40, 1))).astype(F32)
    x[0], x[1], x[2, :], x[3, 0], x[4] = 0, 0.1, -3, 1e30, np.linspace(-1, 1, dim)
    return x


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("groups", "dim"), [(1, 64), (2, 96), (4, 128)])
def test_affine_codes_are_those_of_the_formula(bits, groups, dim):
    x = rows_of_many_kinds(dim)
    coded = leankv.quantize(x, f"affine{bits}g{groups}" if groups > 1 else f"affine{bits}")
    codes, scale, zero = affine(x, bits, groups)
    np.testing.assert_array_equal(unpacked(coded.codes, bits, dim), codes)
    meta = coded.meta.view(np.float16).reshape(len(x), groups, 2)
    np.testing.assert_array_equal(meta[..., 0], scale)
    np.testing.assert_array_equal(meta[..., 1], zero)
    value = scale.astype(F32)[..., None] * codes.reshape(len(x), groups, -1).astype(F32) + zero.astype(F32)[..., None]
    np.testing.assert_array_equal(leankv.dequantize(coded), value.reshape(x.shape))


@pytest.mark.parametrize("codec", ["f16", "symmetric4", "midrise4", "affine4-bf16"])
def test_other_codecs_lose_no_more_than_their_bits_say(codec):
    x = np.random.default_rng(8).standard_normal((30, 64)).astype(F32)
    error = np.abs(leankv.dequantize(leankv.quantize(x, codec)) - x).max()
    assert 0 < error < (0.002 if codec == "f16" else 0.4)


def test_rows_may_lie_apart_and_be_none():
    x = np.random.default_rng(9).standard_normal((5, 200)).astype(F32)
    apart, dense = leankv.quantize(x[:, :64], "affine4"), leankv.quantize(x[:, :64].copy(), "affine4")
    np.testing.assert_array_equal(apart.codes, dense.codes)
    assert leankv.dequantize(leankv.quantize(x[:0, :64], "affine4")).shape == (0, 64)


def test_what_means_nothing_is_refused():
    x = np.zeros((3, 64), F32)
    unaligned = np.frombuffer(bytearray(64 * 4 + 1), np.uint8)[1:].view(F32).reshape(1, 64)
    coded = leankv.quantize(x, "affine4")
    for refused, call in [
        (TypeError, lambda: leankv.quantize([[1.0] * 64], "affine4")),
        (TypeError, lambda: leankv.quantize(x[None], "affine4")),
        (TypeError, lambda: leankv.quantize(x.astype(np.float64), "affine4")),
        (ValueError, lambda: leankv.quantize(x.astype(np.float16), "affine4")),
        (ValueError, lambda: leankv.quantize(unaligned, "affine4")),
        (ValueError, lambda: leankv.quantize(x[:, ::2], "affine4")),
        (ValueError, lambda: leankv.quantize(x[:, :7], "affine4")),
        (ValueError, lambda: leankv.quantize(x, "affine9")),
        (ValueError, lambda: leankv.dequantize(coded._replace(codes=coded.codes[:2]))),
        (ValueError, lambda: leankv.dequantize(coded._replace(head_dim=72))),
        (TypeError, lambda: leankv.dequantize(coded._replace(codes=[[1, 2]]))),
        (ValueError, lambda: leankv._native.dequantize(b"", b"", 2**60, 64, "affine4")),
    ]:
        with pytest.raises(refused) as error:
            call()
        assert "\n" not in str(error.value)
