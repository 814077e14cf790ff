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
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton_kernel import decode


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
    sizes = dict(KEYS=8, VALUES=4, KV_HEADS=8, GROUP=a.group, ROWS=max(16, a.group), D=a.head_dim, PAGE=32, BLOCK=32)
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
