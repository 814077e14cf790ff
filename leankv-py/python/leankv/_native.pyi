"""Types of the native module. Docstrings are with the classes themselves: `help(leankv.Cache)`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

__version__: Final[str]

#: A tensor of the host: torch, numpy, or (address, elements from row to row, "bf16" | "f16" | "f32").
Rows = Any

class LeanKvError(RuntimeError): ...
class OutOfPages(LeanKvError): ...

class RequestError(LeanKvError):
    handle: int

class Plan:
    kv: Final[str]
    layers: Final[int]
    kv_heads: Final[int]
    group: Final[int]
    head_dim: Final[int]
    chunk: Final[int]
    piece: Final[int]
    max_tokens: Final[int]
    input: Final[str]
    page_bytes: Final[int]
    lists: Final[int]
    open_chunk_bytes: Final[int]
    def __new__(
        cls,
        *,
        layers: int,
        kv_heads: int,
        group: int,
        head_dim: int,
        kv: str,
        max_tokens: int,
        chunk: int = 512,
        input: str = "bf16",
        piece: int | None = None,
    ) -> Plan: ...
    def fp16_bytes(self, tokens: int) -> int: ...
    def pages_at_most(self, tokens: int, prompt: int, kv: str | None = None, piece: int | None = None) -> int: ...
    def bytes_at_most(self, tokens: int, prompt: int, kv: str | None = None, piece: int | None = None) -> int: ...

class Cache:
    plan: Final[Plan]
    pages: Final[int]
    page_bytes: Final[int]
    def __new__(
        cls,
        plan: Plan,
        *,
        slots: int,
        pages: int | None = None,
        arena: tuple[int, int] | None = None,
        more_kv: Sequence[str] = (),
        kernels: str | None = None,
    ) -> Cache: ...
    def free_pages(self) -> int: ...
    def admit(self, handle: int, prompt: int, kv: str | None = None) -> None: ...
    def free(self, handles: Sequence[int]) -> None: ...
    def begin(self, parts: Sequence[tuple[int, int]]) -> int: ...
    def layer(self, step: int, layer: int, q: Rows, k: Rows, v: Rows, out: Rows) -> None: ...
    def finish(self, step: int) -> None: ...
    def tokens(self, handle: int) -> int: ...
    def handles(self) -> list[int]: ...
    def stats(self, handle: int) -> dict[str, int]: ...
    def totals(self) -> dict[str, int]: ...
    def audit(self) -> list[str]: ...

def quantize(x: Rows, rows: int, head_dim: int, codec: str) -> tuple[bytes, bytes]: ...
def dequantize(codes: bytes, meta: bytes, rows: int, head_dim: int, codec: str) -> bytes: ...
def compile(kernel: str, target: str, settings: Mapping[str, str] = ...) -> str: ...
def kernels() -> list[str]: ...
