"""A compressed, paged KV cache: keys and values at widths of their own, and each head keeps the tokens that it looks at.

`Plan` says what a cache of a model would be and what requests take of it; `Cache` holds keys and values of many requests and attends to
them; `quantize` and `dequantize` are the codecs; `compile` gives the PTX of the kernels. `HFCache` (of `leankv.hf`) is a cache for `generate` of
transformers, which is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._native import (
    Cache,
    LeanKvError,
    OutOfPages,
    Plan,
    RequestError,
    __version__,
    compile,
    kernels,
)
from . import _native

if TYPE_CHECKING:
    import numpy as np

    from .hf import HFCache

__all__ = [
    "Cache",
    "KvCache",
    "LeanKvError",
    "OutOfPages",
    "Plan",
    "Quantized",
    "RequestError",
    "__version__",
    "compile",
    "dequantize",
    "kernels",
    "quantize",
]

#: The name under which the cache is known in Rust.
KvCache = Cache


class Quantized(NamedTuple):
    """Rows as a codec leaves them."""

    #: Packed codes, uint8 `[rows, bytes]`.
    codes: np.ndarray
    #: 16-bit words of scales and zero points, uint16 `[rows, words]`.
    meta: np.ndarray
    #: Elements of a row.
    head_dim: int
    #: Name of the codec, such as "affine4".
    codec: str


def __getattr__(name: str) -> Any:
    """`HFCache` and `hf`, so that who uses numpy alone need not have transformers."""
    if name not in ("HFCache", "hf"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    hf = importlib.import_module(".hf", __name__)
    return hf if name == "hf" else hf.HFCache


def quantize(x: Any, codec: str) -> Quantized:
    """Codes rows, `[rows, head_dim]` of float32 (numpy, or torch on the host), with a codec such as "affine4"."""
    import numpy as np

    shape = getattr(x, "shape", ())
    if len(shape) != 2:
        raise TypeError(f"x is a tensor of 2 axes, [rows, head_dim] of float32, not {type(x).__name__} of {len(shape)}")
    rows, head_dim = (int(n) for n in shape)
    codes, meta = _native.quantize(x, rows, head_dim, codec)

    def as_rows(data: bytes, dtype: type) -> np.ndarray:
        return np.frombuffer(data, dtype).reshape(rows, -1) if rows else np.zeros((0, 0), dtype)

    return Quantized(as_rows(codes, np.uint8), as_rows(meta, np.uint16), head_dim, codec)


def dequantize(coded: Quantized) -> np.ndarray:
    """The float32 rows `[rows, head_dim]` that codes stand for."""
    import numpy as np

    codes, meta = np.asarray(coded.codes), np.asarray(coded.meta)
    if (codes.dtype, meta.dtype) != (np.uint8, np.uint16):
        raise TypeError(f"codes are of uint8 and meta of uint16, not {codes.dtype} and {meta.dtype}")
    data = _native.dequantize(codes.tobytes(), meta.tobytes(), len(codes), coded.head_dim, coded.codec)
    return np.frombuffer(data, np.float32).reshape(len(codes), coded.head_dim)
