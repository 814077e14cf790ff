"""Times torch's scaled_dot_product_attention as leankv-gpu times its own: a graph, memory that no cache holds, the median."""
import json
import sys

import torch
import torch.nn.functional as F

sizes = json.loads(sys.argv[1])
heads, group, d = sizes["kv_heads"], sizes["group"], sizes["head_dim"]


def time(batch, length):
    token_bytes = batch * heads * d * 4
    copies = max(1, -(-sizes["cold_bytes"] // (token_bytes * length)))
    launches = max(sizes["launches"], copies)
    rand = lambda *shape: torch.rand(*shape, device="cuda", dtype=torch.float16)
    q = rand(batch, heads * group, 1, d)
    kv = [(rand(batch, heads, length, d), rand(batch, heads, length, d)) for _ in range(copies)]
    attend = lambda i: F.scaled_dot_product_attention(q, *kv[i % copies], enable_gqa=True)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        attend(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            attend(i)
    all = []
    for number in range(sizes["measurements"] + 1):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        if number > 0:
            all.append(before.elapsed_time(after) * 1e3 / launches)
    return sorted(all)[len(all) // 2]


times = []
for batch in sizes["batches"]:
    for length in sizes["lengths"]:
        try:
            us = time(batch, length)
        except Exception:
            us = None
        torch.cuda.empty_cache()
        times.append({"batch": batch, "length": length, "microseconds": us})
print(json.dumps({"version": torch.__version__, "times": times}))
