"""Counts the warp instructions that a KV token and KV head costs Triton's decode kernel, at each of its configurations, on the PTX machine.
Prints a JSON object a row: of each format the configuration with the least, and if it spills registers, the next ones up to one that does not."""

import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import softcuda
from counted import D, GROUP, HEADS, KV_HEADS, MORE, SCALE, attention, random, token
from softcuda import Array
from triton_kernel import decode

PAGE = 32
PAGES = MORE // PAGE
FORMATS = {"K8V4": (8, 4), "K4V4": (4, 4), "fp16": (16, 16)}
BLOCKS, WARPS, STAGES = (32, 64, 128), (1, 2, 4), (1, 2, 3)


def coded(bits):
    """What the kernel takes of keys or values: codes (or numbers), scales, zero points; and what they mean."""
    shape = (PAGES, PAGE, KV_HEADS)
    if bits == 16:
        numbers = random.uniform(-1, 1, (*shape, D)).astype(np.float16)
        nothing = np.zeros(16, np.float16)
        return (numbers, nothing, nothing), numbers
    codes = random.integers(0, 1 << bits, (*shape, D), dtype=np.uint8)
    scales = random.uniform(1, 3, shape).astype(np.float16) / np.float16(1 << bits)
    zeros = random.uniform(-1.5, -0.5, shape).astype(np.float16)
    meaning = codes * scales[..., None].astype(np.float64) + zeros[..., None]
    packed = codes if bits == 8 else codes[..., : D // 2] | codes[..., D // 2 :] << 4
    return (packed, scales, zeros), meaning


def spilled(ptx):
    """Bytes that a PTX text's kernel spills in machine code; `None` where there is no ptxas."""
    ptxas = os.path.join(softcuda.ROOT, ".tools/bin/ptxas")
    if not os.path.exists(ptxas):
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        target = re.search(r"^\.target (\w+)", ptx, re.M)[1]
        command = [ptxas, "-v", f"-arch={target}", "-o", os.devnull, file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))


def rows(name, key_bits, value_bits):
    query = random.uniform(-1, 1, (HEADS, D)).astype(np.float16)
    table = random.permutation(PAGES).astype(np.int32)
    (key_arrays, keys), (value_arrays, values) = coded(key_bits), coded(value_bits)
    want = functools.cache(lambda tokens: attention(query, keys, values, table, tokens))
    k, key_scale, key_zero, v, value_scale, value_zero = (Array(x) for x in (*key_arrays, *value_arrays))
    q, pages = Array(query), Array(table)
    kernel = None

    def run(tokens, block, warps, stages):
        nonlocal kernel
        out = Array(np.zeros((HEADS, D), np.float16))
        kernel = decode[1, KV_HEADS](
            q, k, v, key_scale, key_zero, value_scale, value_zero, pages, Array(np.array([tokens], np.int32)), out, SCALE * 1.4426950408889634,
            PAGES, KEYS=key_bits, VALUES=value_bits, KV_HEADS=KV_HEADS, GROUP=GROUP, ROWS=16, D=D, PAGE=PAGE, BLOCK=block,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out.numpy()

    found = []
    for block, warps, stages in itertools.product(BLOCKS, WARPS, STAGES):
        what = f"block {block}, warps {warps}, stages {stages}"
        try:
            cost = token(lambda tokens: run(tokens, block, warps, stages), want)
            found.append((cost["instructions"], dict(format=name, configuration=what, **cost), kernel.asm["ptx"]))
        except Exception as refused:  # Such as too much shared memory.
            print(f"{name}, {what}: {refused}", file=sys.stderr)
    for _, row, ptx in sorted(found, key=lambda row: row[0]):
        bytes_ = spilled(ptx)
        print(json.dumps(row | dict(spilled=bytes_)), flush=True)
        if not bytes_:
            break


for name, bits in FORMATS.items():
    rows(name, *bits)
