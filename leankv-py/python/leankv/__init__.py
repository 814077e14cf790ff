"""A compressed, paged KV cache: keys and values at widths of their own, and each head keeps the tokens that it looks at.

`Plan` says what a cache of a model would be and what requests take of it; `Cache` holds keys and values of many requests and attends to
them; `quantize` and `dequantize` are the codecs; `compile` gives the PTX of the kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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


def quantize(x, codec: str) -> Quantized:
    """Codes rows, `[rows, head_dim]` of float32 (numpy, or torch on the host), with a codec such as "affine4"."""
    import numpy as np

    rows, head_dim = (int(n) for n in x.shape)
    codes, meta = _native.quantize(x, rows, head_dim, codec)
    as_rows = lambda data, dtype: np.frombuffer(data, dtype).reshape(rows, -1) if rows else np.zeros((0, 0), dtype)  # noqa: E731
    return Quantized(as_rows(codes, np.uint8), as_rows(meta, np.uint16), head_dim, codec)


def dequantize(coded: Quantized) -> np.ndarray:
    """The float32 rows `[rows, head_dim]` that codes stand for."""
    import numpy as np

    rows = len(coded.codes)
    data = _native.dequantize(coded.codes.tobytes(), coded.meta.tobytes(), rows, coded.head_dim, coded.codec)
    return np.frombuffer(data, np.float32).reshape(rows, coded.head_dim)
