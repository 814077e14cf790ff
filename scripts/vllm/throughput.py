"""Requests that vLLM serves from a fixed memory of keys and values: stock against LeanKV.

    python scripts/vllm/throughput.py MODEL [--requests N] [--out N] [--mib N] [--rounds N] [WAY ...]

MODEL is a folder that scripts/vllm/smollm2.py wrote. All engines run in one run of this program, each in a fork of it, one after another,
with the same requests: pieces of a novel of 200 to 600 tokens. The memory holds about four of them in bf16.

Steps, mean batch and preemptions do not depend on how busy the machine is; requests a second do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    HF_HUB_OFFLINE="1",
    VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
)

NOVEL = pathlib.Path(__file__).resolve().parents[2] / "data" / "emma.txt"
STOCK = "stock"
SHORTEST, LONGEST = 200, 600


def prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """`count` pieces of the novel, of SHORTEST to LONGEST tokens each, drawn alike in each run."""
    draw = random.Random(1)
    tokens = tokenizer.encode(NOVEL.read_text())
    out = []
    for _ in range(count):
        length = draw.randrange(SHORTEST, LONGEST + 1)
        start = draw.randrange(0, len(tokens) - length)
        out.append(tokens[start : start + length])
    return out


def serve(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Serves all requests, which arrive at once, and tells what that took."""
    from vllm import LLM, SamplingParams

    more: dict[str, Any] = {}
    if way != STOCK:
        more = dict(
            additional_config={"leankv": {"kv": way, "chunk": args.chunk, "metrics_every": 0}},
            kv_transfer_config={"kv_connector": "LeanKvConnector", "kv_role": "kv_both"},
        )
    llm = LLM(
        model=str(args.model),
        enforce_eager=True,
        max_model_len=LONGEST + args.out + 8,
        dtype="bfloat16",
        max_num_seqs=64,
        max_num_batched_tokens=1024,
        block_size=32,
        enable_prefix_caching=False,
        async_scheduling=False,
        kv_cache_memory_bytes=args.mib << 20,
        disable_log_stats=False,
        **more,
    )
    engine = llm.llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    params = SamplingParams(max_tokens=args.out, temperature=0, ignore_eos=True, detokenize=False)
    given = prompts(llm.get_tokenizer(), args.requests)
    # Warm: threads, allocators, and kernels that are loaded at their first call.
    llm.generate([{"prompt_token_ids": given[0]}], SamplingParams(max_tokens=4, temperature=0), use_tqdm=False)
    for i, tokens in enumerate(given):
        engine.add_request(str(i), {"prompt_token_ids": tokens}, params)
    batch, bytes_held, smaller = [], 0, []
    wall, cpu = time.perf_counter(), time.process_time()
    while engine.has_unfinished_requests():
        outputs = engine.step()
        batch.append(len(scheduler.running) + sum(output.finished for output in outputs))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    metrics = {metric.name: getattr(metric, "value", None) for metric in llm.get_metrics()}
    if way != STOCK:
        smaller.append(metrics["vllm:leankv_fp16_bytes"] / metrics["vllm:leankv_bytes"])
        bytes_held = metrics["vllm:leankv_bytes"]
    return dict(
        way=way,
        capacity_tokens=engine.vllm_config.cache_config.kv_cache_size_tokens,
        requests_per_s=args.requests / wall,
        output_tokens_per_s=args.requests * args.out / wall,
        wall_s=wall,
        cpu_s=cpu,
        steps=len(batch),
        mean_batch=statistics.mean(batch),
        preemptions=int(metrics["vllm:num_preemptions"]),
        smaller=smaller[0] if smaller else 1.0,
        bytes_at_the_end=bytes_held,
    )


def _child(args: argparse.Namespace, way: str, answer: Connection) -> None:
    answer.send(serve(args, way))
    answer.close()


def forked(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """`serve` in a fork, so that each engine begins alike and vLLM is imported once."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(args, way, send))
    child.start()
    send.close()
    try:
        result = receive.recv()
    except EOFError:
        raise SystemExit(f"The engine with {way} ended before it had served; what it printed says why.") from None
    child.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("ways", nargs="*", default=[STOCK, "K8V4", "K8V4/K4V2@1/5", "K8V4/K4V2@1/8"])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--out", type=int, default=64, help="tokens to generate for each")
    parser.add_argument("--mib", type=int, default=40, help="memory of keys and values")
    parser.add_argument("--chunk", type=int, default=128, help="tokens of a prompt that LeanKV compresses together")
    parser.add_argument("--rounds", type=int, default=1, help="the best of so many")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    import vllm
    from vllm import LLM, SamplingParams  # noqa: F401 (imported before the first fork)

    rows: dict[str, dict[str, Any]] = {}
    for _ in range(args.rounds):
        for way in args.ways:
            row = forked(args, way)
            if way not in rows or row["requests_per_s"] > rows[way]["requests_per_s"]:
                rows[way] = row
    if args.json:
        print(json.dumps(list(rows.values()), indent=1))
        return
    print(
        f"vLLM {vllm.__version__} on the host, {args.model.name}, {args.mib} MiB of keys and values, {args.requests} requests of "
        f"{SHORTEST} to {LONGEST} prompt tokens and {args.out} output tokens"
    )
    print("| | tokens that fit | requests/s | mean batch | steps | preemptions | CPU s | bytes of the last requests |")
    print("|---|---|---|---|---|---|---|---|")
    for way, row in rows.items():
        print(
            f"| {way} | {row['capacity_tokens']} | {row['requests_per_s']:.2f} | {row['mean_batch']:.1f} | {row['steps']} | "
            f"{row['preemptions']} | {row['cpu_s']:.0f} | {row['smaller']:.1f}x smaller |"
        )


if __name__ == "__main__":
    main()
