#!/usr/bin/env python3
"""Compiles Triton's equivalent of the decode attention kernel (8-bit keys, 4-bit values, paged, one query group a program) without a
GPU, several times in one process, and prints one JSON object: milliseconds of each compile. The first one pays for Triton's start.

    triton_decode.py [--arch 80] [--runs 4] [--group 8] [--head-dim 128]
"""
import argparse
import json
import os
import tempfile
import time

os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="triton-")

import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def decode(q, keys, values, key_scale, key_zero, value_scale, value_zero, table, lengths, out, scale, table_len,
           KV_HEADS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
           BLOCK: tl.constexpr):
    request, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + request)
    rows, dims, half, slots = tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, D // 2), tl.arange(0, BLOCK)
    mine = rows[:, None] < GROUP
    first = request * KV_HEADS * GROUP + head * GROUP
    query = tl.load(q + (first + rows)[:, None] * D + dims[None, :], mask=mine, other=0.0)
    query_sum = tl.sum(query.to(tl.float32), 1)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    offset = tl.zeros([ROWS], tl.float32)
    low = tl.zeros([ROWS, D // 2], tl.float32)
    high = tl.zeros([ROWS, D // 2], tl.float32)
    for start in range(0, length, BLOCK):
        token = start + slots
        valid = token < length
        page = tl.load(table + request * table_len + token // PAGE, mask=valid, other=0)
        row = (page.to(tl.int64) * PAGE + token % PAGE) * KV_HEADS + head
        k = tl.load(keys + row[None, :] * D + dims[:, None], mask=valid[None, :], other=0)
        ks = tl.load(key_scale + row, mask=valid, other=0.0).to(tl.float32)
        kz = tl.load(key_zero + row, mask=valid, other=0.0).to(tl.float32)
        logits = (tl.dot(query, k.to(tl.float16)) * ks[None, :] + query_sum[:, None] * kz[None, :]) * scale
        logits = tl.where(valid[None, :], logits, -float("inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        p = tl.exp2(logits - new_top[:, None])
        keep = tl.exp2(top - new_top)
        total = total * keep + tl.sum(p, 1)
        top = new_top
        vs = tl.load(value_scale + row, mask=valid, other=0.0).to(tl.float32)
        vz = tl.load(value_zero + row, mask=valid, other=0.0).to(tl.float32)
        v = tl.load(values + row[:, None] * (D // 2) + half[None, :], mask=valid[:, None], other=0)
        offset = offset * keep + tl.sum(p * vz[None, :], 1)
        weights = (p * vs[None, :]).to(tl.float16)
        low = low * keep[:, None] + tl.dot(weights, (v & 15).to(tl.float16))
        high = high * keep[:, None] + tl.dot(weights, (v >> 4).to(tl.float16))
    at = out + (first + rows)[:, None] * D + half[None, :]
    tl.store(at, ((low + offset[:, None]) / total[:, None]).to(tl.float16), mask=mine)
    tl.store(at + D // 2, ((high + offset[:, None]) / total[:, None]).to(tl.float16), mask=mine)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--arch", type=int, default=80)
    ap.add_argument("--runs", type=int, default=4)
    ap.add_argument("--group", type=int, default=8)
    ap.add_argument("--head-dim", type=int, default=128)
    a = ap.parse_args()
    halves = ("q", "key_scale", "key_zero", "value_scale", "value_zero", "out")
    types = dict.fromkeys(decode.arg_names, "constexpr")
    types |= dict.fromkeys(halves, "*fp16") | dict(keys="*u8", values="*u8", table="*i32", lengths="*i32")
    types |= dict(scale="fp32", table_len="i32")
    sizes = dict(KV_HEADS=8, GROUP=a.group, ROWS=max(16, a.group), D=a.head_dim, PAGE=32, BLOCK=32)
    places = {name: i for i, name in enumerate(decode.arg_names)}
    aligned = {(places[n],): [["tt.divisibility", 16]] for n, t in types.items() if t.startswith("*")}
    knobs.compilation.always_compile = True
    stages = {}
    knobs.compilation.listener = lambda *, times, **_: stages.update(times.lowering_stages)
    ms, assembling = [], []
    for _ in range(a.runs):
        source = ASTSource(decode, types, {(places[n],): v for n, v in sizes.items()}, aligned)
        start = time.perf_counter()
        triton.compile(source, target=GPUTarget("cuda", a.arch, 32), options=dict(num_warps=4, num_stages=3))
        ms.append((time.perf_counter() - start) * 1e3)
        assembling.append(stages.get("cubin", 0) / 1e3)
    print(json.dumps(dict(triton=triton.__version__, arch=a.arch, compile_ms=ms, ptxas_ms=assembling)))


main()
