"""The worker's side: one native cache over vLLM's KV memory, and the step that is open in it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..charge import Charge
from ..compat import init_logger
from ..config import Options
from ..native import leankv

logger = init_logger("vllm.leankv")


@dataclass
class Step:
    """One forward pass. vLLM's attention metadata of all layers is this one object."""

    cache: WorkerCache
    parts: list[tuple[int, int]]
    """(handle, rows) in the order of the rows of queries, keys and values."""
    number: int | None = None
    """The native cache's step, from the first layer to the last."""
    picked: torch.Tensor | None = None
    """Rows of the requests that go through the cache, [n] of int64, where some do not; None where all do."""

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.parts)

    def layer(
        self, index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output: torch.Tensor
    ) -> None:
        """Attention of layer `index`.

        `query` and `output` are [rows, query heads, head size] or [rows, query heads x head size], `key` and `value` the same with KV heads.
        Rows beyond those of `parts` are padding.
        """
        if index == 0:
            self.cache.begin(self)
        n = self.rows
        query, key, value, out = query[:n], key[:n], value[:n], output[:n]
        if self.picked is None:
            if self.number is not None:
                self.cache.native.layer(self.number, index, query, key, value, out)
        else:
            out.zero_()
            if self.number is not None:
                part = torch.empty_like(out[self.picked])
                self.cache.native.layer(
                    self.number, index, query[self.picked], key[self.picked], value[self.picked], part
                )
                out[self.picked] = part
        if index == self.cache.charge.layers - 1:
            self.cache.finish(self)


class WorkerCache:
    """A rank's native cache.

    `slots` requests fit. `arena` is (address, bytes) of memory that outlives the cache.
    """

    def __init__(self, charge: Charge, options: Options, slots: int, arena: tuple[int, int]) -> None:
        start = time.perf_counter()
        self.charge = charge
        self.options = options
        self.arena_bytes = arena[1]
        self.native = leankv.Cache(charge.plan, slots=slots, arena=arena, more_kv=list(options.more_kv))
        self.broken: set[int] = set()
        """Handles of requests that the native cache refused. Their rows are zeros, and vLLM is asked to fail them."""
        self.charged_bytes = 0
        self.ledger: list[tuple[int, int]] = []
        """(true bytes, charged bytes) after each step, where the option `check` is on."""
        logger.info(
            "LeanKV %s: %d pages of %d bytes in %.2f GiB, ready in %.1f s. An unfinished chunk of a prompt takes %.1f MiB beside them.",
            charge.plan.kv,
            self.native.pages,
            self.native.page_bytes,
            self.arena_bytes / 2**30,
            time.perf_counter() - start,
            charge.plan.open_chunk_bytes / 2**20,
        )

    def live(self, ended: Sequence[int], admitted: Iterable[tuple[int, int, str | None]], charged_bytes: int) -> None:
        """Frees the handles of `ended`, then admits (handle, prompt tokens, way of compressing or None).

        The scheduler has charged `charged_bytes`, all requests together.
        """
        if ended:
            self.native.free(list(ended))
            self.broken.difference_update(ended)
        for handle, prompt, kv in admitted:
            try:
                self.native.admit(handle, prompt, kv)
            except (leankv.RequestError, ValueError) as error:
                self._break(handle, error)
        self.charged_bytes = charged_bytes

    def begin(self, step: Step) -> None:
        """Opens the native step. A request that is to blame for an error is left out, and the others go on."""
        while True:
            parts = [(handle, rows) for handle, rows in step.parts if handle not in self.broken]
            try:
                step.number = self.native.begin(parts) if parts else None
                break
            except leankv.RequestError as error:
                if error.handle in self.broken or all(handle != error.handle for handle, _ in parts):
                    raise
                self._break(error.handle, error)
            except leankv.OutOfPages as error:
                raise RuntimeError(
                    f"internal error: requests hold more than the {self.charged_bytes} bytes that they are charged ({error}). "
                    "Please report it with the model and the kv option; a larger KV memory avoids it."
                ) from error
        if len(parts) == len(step.parts):
            return
        picked, at = [], 0
        for handle, rows in step.parts:
            if handle not in self.broken:
                picked.extend(range(at, at + rows))
            at += rows
        step.picked = torch.tensor(picked, dtype=torch.int64)

    def finish(self, step: Step) -> None:
        """Closes the native step after the last layer."""
        if step.number is not None:
            self.native.finish(step.number)
            step.number = None
        if self.options.check:
            self.check()

    def check(self) -> None:
        """Raises RuntimeError where the cache's bookkeeping is not well, or where it holds more than is charged."""
        if findings := self.native.audit():
            raise RuntimeError(f"internal error: the cache's audit found: {'; '.join(findings)}.")
        used = (self.native.pages - self.native.free_pages()) * self.native.page_bytes
        self.ledger.append((used, self.charged_bytes))
        if used > self.charged_bytes:
            raise RuntimeError(f"internal error: requests hold {used} bytes and are charged {self.charged_bytes}.")

    def _break(self, handle: int, error: Exception) -> None:
        logger.error("LeanKV fails one request: %s", error)
        self.broken.add(handle)
