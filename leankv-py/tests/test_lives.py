"""Hundreds of random lives in one arena: prompts cut anywhere, several kinds of requests, ends in the middle of steps, and too few pages."""

from __future__ import annotations

import leankv
import numpy as np
import pytest

LAYERS, KV_HEADS, GROUP, DIM = 2, 1, 2, 64


class Lives:
    """A cache, and what is known of its requests: kind, prompt and tokens."""

    def __init__(self, seed: int, kinds: list[str], pages: int, chunk: int) -> None:
        self.random = np.random.default_rng(seed)
        self.plan = leankv.Plan(
            layers=LAYERS, kv_heads=KV_HEADS, group=GROUP, head_dim=DIM, kv=kinds[0], max_tokens=220, chunk=chunk, input="f32"
        )
        self.cache = leankv.Cache(self.plan, slots=5, pages=pages, more_kv=kinds[1:])
        self.kinds = kinds
        self.lives: dict[int, tuple[str, int, int]] = {}
        #: Tokens that a refused step would have brought a request to: it may keep the pages for another try.
        self.tried: dict[int, int] = {}
        self.begun = self.short = self.torn = 0

    def turn(self) -> None:
        if len(self.lives) < 5 and self.random.random() < 0.8:
            self.admit()
        parts = [(handle, self.piece(handle)) for handle in self.lives if self.random.random() < 0.8]
        self.random.shuffle(parts)
        try:
            step = self.cache.begin([(int(handle), int(rows)) for handle, rows in parts])
        except leankv.OutOfPages:
            self.short += 1
            for handle, rows in parts:
                self.tried[int(handle)] = max(self.tried.get(int(handle), 0), self.lives[handle][2] + int(rows))
            self.free(int(self.random.choice(list(self.lives))))
            return
        if parts and self.random.random() < 0.05:
            # A step that is left in its middle: whoever was in it goes.
            self.layer(step, 0, parts)
            self.torn += 1
            for handle, _ in parts:
                self.free(int(handle))
            return
        for layer in range(LAYERS):
            self.layer(step, layer, parts)
        self.cache.finish(step)
        for handle, rows in parts:
            kind, prompt, tokens = self.lives[handle]
            self.lives[handle] = kind, prompt, tokens + rows
        self.check()
        for handle, (_, prompt, tokens) in list(self.lives.items()):
            if tokens >= prompt + 40 or tokens == 220 or self.random.random() < 0.03:
                self.free(handle)

    def admit(self) -> None:
        handle, kind = 1000 - self.begun, str(self.random.choice(self.kinds))
        prompt = int(self.random.integers(0, 160))
        try:
            self.cache.admit(handle, prompt, kind)
        except leankv.OutOfPages:
            self.short += 1
            return
        self.begun += 1
        self.lives[handle] = kind, prompt, 0

    def piece(self, handle: int) -> int:
        _, prompt, tokens = self.lives[handle]
        return int(self.random.integers(1, prompt - tokens + 1)) if tokens < prompt else 1

    def layer(self, step: int, layer: int, parts: list[tuple[int, int]]) -> None:
        rows = sum(rows for _, rows in parts)
        q, k, v = (self.random.standard_normal((rows, n * DIM)).astype(np.float32) for n in (KV_HEADS * GROUP, KV_HEADS, KV_HEADS))
        self.cache.layer(step, layer, q, k, v, q)
        assert np.isfinite(q).all()

    def free(self, handle: int) -> None:
        self.cache.free([handle])
        self.lives.pop(handle, None)
        self.tried.pop(handle, None)

    def check(self) -> None:
        pages = 0
        for handle, (kind, prompt, tokens) in self.lives.items():
            held = self.cache.stats(handle)
            pages += held["pages"]
            reached = max(tokens, self.tried.get(handle, 0))
            most = max(self.plan.pages_at_most(n, prompt, kind) for n in {tokens, reached})
            assert held["pages"] <= most, (handle, kind, prompt, tokens, reached)
            assert self.cache.tokens(handle) == tokens
            seen = held["high"] + held["low"] + held["pruned"]
            # Tokens of a chunk that has not ended have no place yet.
            assert seen <= tokens * self.plan.lists and (tokens < prompt or seen == tokens * self.plan.lists)
            assert held["fp16_bytes"] <= self.plan.fp16_bytes(tokens)
        assert pages + self.cache.free_pages() == self.cache.pages


@pytest.mark.parametrize(
    ("kinds", "chunk", "pages"),
    [
        (["fp16", "K8V4", "K4V2"], 16, 900),
        (["K8V4/K4V2@1/3", "fp16", "K8V4/K4V2@1/8"], 32, 900),
        (["@1/5", "@1/10", "fp16"], 64, 900),
        (["K8V4/K4V2@1,0.02"], 500, 900),
        (["K8V4/K4V2@1/4:keep=0", "fp16"], 24, 90),
    ],
)
def test_no_life_passes_its_bound_and_all_pages_come_back(kinds, chunk, pages):
    lives = Lives(len(kinds[0]) + chunk, kinds, pages, chunk)
    while lives.begun < 70:
        lives.turn()
    assert lives.cache.audit() == []
    for handle in list(lives.lives):
        lives.free(handle)
    assert lives.cache.audit() == []
    assert lives.cache.free_pages() == lives.cache.pages
    assert lives.torn > 0 and (lives.short > 0) == (pages == 90)
