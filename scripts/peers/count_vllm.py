"""Counts the warp instructions that a KV token and KV head costs vLLM's attention kernels for Triton, launched by vLLM's own code, on the PTX
machine. Prints a JSON object a row.

    python count_vllm.py FOLDER      # FOLDER has the kernels' files of the wheel vllm
"""

import functools
import json
import sys

import numpy as np
import vllm_kernels
from counted import D, HEADS, KV_HEADS, MORE, SCALE, attention, random, token
from softcuda import Array
from vllm_kernels import KVQuantMode

BLOCK = 16
BLOCKS = MORE // BLOCK
MODES = {"int8 per token and head": (8, KVQuantMode.INT8_PER_TOKEN_HEAD), "int4 per token and head": (4, KVQuantMode.INT4_PER_TOKEN_HEAD),
         "fp16": (16, KVQuantMode.NONE)}  # fmt: skip


def cache(bits):
    """Keys and values as vLLM lays them out, `[block, slot, head, key and its scale, value and its scale]`, and what they mean.

    Scales are f32; at 4 bits the low bits of a scale are the zero point, and dimensions `2i` and `2i + 1` share a byte.
    """
    shape = (2, BLOCKS, BLOCK, KV_HEADS)
    if bits == 16:
        keys, values = random.uniform(-1, 1, (*shape, D)).astype(np.float16)
        return np.concatenate([keys, values], -1), keys, values
    scales = (random.uniform(1, 3, shape) / (1 << bits)).astype(np.float32)
    if bits == 8:
        codes, zeros, plain = random.integers(-127, 128, (*shape, D)), 0, scales
        packed = codes.astype(np.int8).view(np.uint8)
    else:
        codes, zeros = random.integers(0, 16, (*shape, D)), random.integers(6, 10, shape)
        plain = (scales.view(np.int32) & -16).view(np.float32)
        scales = (plain.view(np.int32) | zeros.astype(np.int32)).view(np.float32)
        packed, zeros = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8), zeros[..., None]
    keys, values = (codes - zeros) * plain[..., None].astype(np.float64)
    halves = np.concatenate([packed, scales[..., None].view(np.uint8)], -1)
    return np.concatenate([*halves], -1), keys, values


def rows(name, bits, mode, unified, packed):
    content, keys, values = cache(bits)
    memory, kind = Array(content), {4: np.uint8, 8: np.int8, 16: np.float16}[bits]
    elements = content.shape[-1]
    strides = (BLOCK * KV_HEADS * elements, KV_HEADS * elements, elements)
    dims = D // 2 if bits == 4 else D
    half = elements // 2

    def part(at):
        offset = at * np.dtype(kind).itemsize
        return Array(memory, dtype=kind, shape=(BLOCKS, BLOCK, KV_HEADS, dims), strides=(*strides, 1), offset=offset)

    def scales(at):
        return Array(memory, dtype=np.float32, shape=(BLOCKS, BLOCK, KV_HEADS), strides=tuple(s // 4 for s in strides), offset=at)

    query = random.uniform(-1, 1, (1, HEADS, D)).astype(np.float16)
    table = random.permutation(BLOCKS).astype(np.int32)
    want = functools.cache(lambda tokens: attention(query[0], keys, values, table, tokens))
    q, blocks = Array(query), Array(table[None])

    def run(tokens, splits):
        out = Array(np.zeros((1, HEADS, D), np.float16))
        given = dict(
            q=q, out=out, cu_seqlens_q=Array(np.array([0, 1], np.int32)), max_seqlen_q=1, seqused_k=Array(np.array([tokens], np.int32)),
            softmax_scale=SCALE, window_size=(-1, -1), block_table=blocks, softcap=0,
        )  # fmt: skip
        if bits < 16:
            given |= dict(k_scale_cache=scales(dims), v_scale_cache=scales(half + dims))
        split = dict.fromkeys(("seq_threshold_3D", "num_par_softmax_segments", "softmax_segm_output", "softmax_segm_max", "softmax_segm_expsum"))
        if splits > 1:
            scratch = (Array(np.zeros((1, HEADS, splits, *more), np.float32)) for more in ((D,), (), ()))
            split = dict(zip(split, (16, splits, *scratch)))
        if bits == 4:
            # The launch within vLLM's `unified_attention_int4`, which rotates queries before it and outputs after it.
            nothing = dict.fromkeys(("sinks", "alibi_slopes", "qq_bias", "output_scale", "mm_prefix_range"))
            packed._launch_packed_attn(k_cache=part(0), v_cache=part(half), use_alibi_sqrt=False, packing_factor=2, **nothing, **given, **split)
        else:
            descale = dict(q_descale=None, k_descale=None, v_descale=None)
            unified.unified_attention(k=part(0), v=part(half), max_seqlen_k=tokens, causal=True, kv_quant_mode=mode, **descale, **given, **split)
        return out.numpy()[0]

    # vLLM gives each sequence of a large batch one program a KV head, and cuts those of a small batch into 16.
    for splits in (1, 16):
        cost = token(lambda tokens: run(tokens, splits), want)
        print(json.dumps(dict(format=name, splits=splits, **cost)), flush=True)


kernels = vllm_kernels.load(sys.argv[1])
for name, (bits, mode) in MODES.items():
    rows(name, bits, mode, *kernels)
