"""What the counts of Triton's and of vLLM's kernels share: the shape, what is right, and a token's cost. 4 query heads a KV head, head dim 128."""

import numpy as np
import softcuda

LESS, MORE = 1024, 3072
KV_HEADS, GROUP, D = 8, 4, 128
HEADS = KV_HEADS * GROUP
SCALE = D**-0.5
random = np.random.default_rng(1)


def attention(query, keys, values, table, tokens):
    """Of `query[HEADS, D]` over the first tokens of pages `[page, slot, KV_HEADS, D]` that `table` lists, in f64."""
    k, v = (x[table].reshape(-1, KV_HEADS, D)[:tokens].astype(np.float64).transpose(1, 0, 2) for x in (keys, values))
    logits = query.astype(np.float64).reshape(KV_HEADS, GROUP, D) @ k.transpose(0, 2, 1) * SCALE
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return (p @ v / p.sum(-1, keepdims=True)).reshape(HEADS, D)


def token(run, want):
    """Warp instructions a token and KV head, which is what `run(tokens)` takes more for more tokens, and the largest error of its outputs."""
    counts, errors = [], []
    for tokens in (LESS, MORE):
        softcuda.warp_instructions()
        out = run(tokens).astype(np.float64)
        counts.append(softcuda.warp_instructions())
        right = want(tokens)
        errors.append(np.abs(out - right).max() / np.abs(right).max())
    assert max(errors) < 2e-2, f"the output is wrong, by {max(errors):.1e}"
    return dict(instructions=(counts[1] - counts[0]) / (MORE - LESS) / KV_HEADS, error=max(errors))
