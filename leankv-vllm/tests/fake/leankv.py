"""A stand-in for the native module: the same interface, keys and values kept whole, attention by torch.

Tests of the scheduler's side run over it, so that they need no native build and their charges are easy to work out. Its memory is as
strange as the real one's: a request holds more pages while its prompt comes than after it.
"""

from __future__ import annotations

import re

import torch

PAGE_BYTES = 4096


class OutOfPages(RuntimeError):
    pass


class RequestError(ValueError):
    def __init__(self, handle: int, message: str) -> None:
        super().__init__(message)
        self.handle = handle


class Plan:
    """`@1/n` divides the pages by n once a prompt is whole."""

    def __init__(self, *, layers, kv_heads, group, head_dim, kv, chunk, input, max_tokens):
        self.args = dict(
            layers=layers, kv_heads=kv_heads, group=group, head_dim=head_dim, kv=kv, chunk=chunk, input=input, max_tokens=max_tokens
        )
        self.part(kv)
        self.lists = layers * kv_heads
        self.layers, self.group, self.head_dim = layers, group, head_dim
        self.chunk, self.max_tokens = chunk, max_tokens
        self.kv = kv.upper()
        self.page_bytes = PAGE_BYTES
        self.page_tokens = max(1, PAGE_BYTES // (head_dim * 4))
        self.open_chunk_bytes = chunk * self.lists * head_dim * 4

    def __reduce__(self):
        return _plan, (self.args,)

    @staticmethod
    def part(kv: str) -> int:
        match = re.fullmatch(r"(?i)(fp16|k8v4|k8v4/k4v2)(@1/(\d+))?", kv)
        if not match:
            raise ValueError(f"{kv} is no way of compressing: try K8V4/K4V2@1/5.")
        return int(match.group(3) or 1)

    def held(self, tokens: int, prompt: int, kv: str | None) -> int:
        """Pages at one moment: everything while the prompt comes, a part of it after."""
        part = self.part(kv or self.kv) if tokens > prompt else 1
        return self.lists * -(-max(1, -(-tokens // part)) // self.page_tokens)

    def pages_at_most(self, tokens, prompt, kv=None, piece=None):
        return self.held(tokens, prompt, kv)

    def bytes_at_most(self, tokens, prompt, kv=None, piece=None):
        return self.pages_at_most(tokens, prompt, kv, piece) * self.page_bytes


def _plan(args):
    return Plan(**args)


class _Request:
    def __init__(self, prompt, kv, layers):
        self.prompt, self.kv, self.tokens = prompt, kv, 0
        self.keys = [None] * layers
        self.values = [None] * layers


class Cache:
    def __init__(self, plan, slots, arena=None, pages=None, more_kv=()):
        self.plan, self.slots = plan, slots
        self.page_bytes = plan.page_bytes
        self.pages = pages if pages is not None else arena[1] // plan.page_bytes
        self.requests = {}
        self.steps = 0
        self.open = None
        self.poison = set()

    def _held(self):
        return sum(self.plan.held(r.tokens, r.prompt, r.kv) for r in self.requests.values() if r.tokens)

    def free_pages(self):
        return self.pages - self._held()

    def admit(self, handle, prompt, kv=None):
        if handle in self.requests:
            raise RequestError(handle, f"handle {handle} is in use.")
        if len(self.requests) == self.slots:
            raise RequestError(handle, f"all {self.slots} slots are taken.")
        self.requests[handle] = _Request(prompt, kv, self.plan.layers)

    def free(self, handles):
        for handle in handles:
            self.requests.pop(handle, None)

    def begin(self, parts):
        if self.open is not None:
            raise RuntimeError("a step is open.")
        for handle, rows in parts:
            request = self.requests.get(handle)
            if request is None:
                raise RequestError(handle, f"no request has handle {handle}.")
            if handle in self.poison:
                raise RequestError(handle, f"request {handle} was poisoned by a test.")
            if rows > 1 and request.tokens + rows > request.prompt:
                raise RequestError(handle, f"{rows} rows go beyond the prompt of {request.prompt}.")
        for handle, rows in parts:
            self.requests[handle].tokens += rows
        if self._held() > self.pages:
            raise OutOfPages(f"{self._held()} of {self.pages} pages.")
        self.steps += 1
        self.open = (self.steps, list(parts))
        return self.steps

    def layer(self, step, i, q, k, v, out):
        assert self.open is not None and self.open[0] == step
        group, dim = self.plan.group, self.plan.head_dim
        at = 0
        for handle, rows in self.open[1]:
            request = self.requests[handle]
            keys, values = (x[at : at + rows].reshape(rows, -1, dim).float() for x in (k, v))
            if request.keys[i] is not None:
                keys, values = torch.cat([request.keys[i], keys]), torch.cat([request.values[i], values])
            request.keys[i], request.values[i] = keys, values
            queries = q[at : at + rows].reshape(rows, -1, dim).float().transpose(0, 1)
            keys, values = (x.transpose(0, 1).repeat_interleave(group, 0) for x in (keys, values))
            before = keys.shape[1] - rows
            mask = torch.ones(rows, keys.shape[1], dtype=torch.bool).tril(before)
            result = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            out[at : at + rows] = result.transpose(0, 1).reshape(out[at : at + rows].shape).to(out.dtype)
            at += rows

    def finish(self, step):
        assert self.open is not None and self.open[0] == step
        self.open = None

    def tokens(self, handle):
        return self.requests[handle].tokens

    def stats(self, handle):
        request = self.requests[handle]
        pages = self.plan.held(request.tokens, request.prompt, request.kv)
        return dict(
            bytes=pages * self.page_bytes,
            fp16_bytes=request.tokens * self.plan.lists * self.plan.head_dim * 4,
            high=request.tokens * self.plan.lists,
            low=0,
            pruned=0,
            pages=pages,
        )

    def totals(self):
        out = dict(bytes=0, fp16_bytes=0, high=0, low=0, pruned=0, pages=0)
        for handle in self.requests:
            for key, value in self.stats(handle).items():
                out[key] += value
        out["pages_used"] = out.pop("pages")
        out["requests"] = len(self.requests)
        return out

    def audit(self):
        return []
