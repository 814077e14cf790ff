"""Engines in processes of their own, so that vLLM is imported once: its import takes 20 seconds, a fork none."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MB = 1 << 20
CONNECTOR = {"kv_connector": "LeanKvConnector", "kv_role": "kv_both"}


def forked(work: Callable[..., Any], *args: Any, seconds: float = 900, **kwargs: Any) -> Any:
    """What `work(*args, **kwargs)` gives, run in a fork of this process.

    Raises AssertionError with the end of the fork's output where it raises, dies, or takes more than `seconds`.
    """
    receive, send = os.pipe()
    log_receive, log_send = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            os.close(receive)
            os.close(log_receive)
            os.dup2(log_send, 1)
            os.dup2(log_send, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            try:
                answer: tuple[bool, Any] = (True, work(*args, **kwargs))
            except BaseException as error:
                traceback.print_exc()
                answer = (False, f"{type(error).__name__}: {error}")
            with os.fdopen(send, "wb") as out:
                pickle.dump(answer, out)
            code = 0
        finally:
            os._exit(code)
    os.close(send)
    os.close(log_send)
    parts: dict[int, bytearray] = {receive: bytearray(), log_receive: bytearray()}
    waiting = set(parts)
    end = time.monotonic() + seconds
    while receive in waiting and (left := end - time.monotonic()) > 0:
        for ready in select.select(list(waiting), [], [], left)[0]:
            data = os.read(ready, 1 << 16)
            parts[ready].extend(data)
            if not data:
                waiting.discard(ready)
    with contextlib.suppress(ProcessLookupError):
        # The fork's own workers, too: it leads its session.
        os.killpg(pid, signal.SIGKILL) if receive in waiting else None
    os.close(receive)
    os.close(log_receive)
    os.waitpid(pid, 0)
    tail = parts[log_receive].decode(errors="replace")[-6000:]
    if not parts[receive]:
        why = f"took more than {seconds} s" if receive in waiting else "died"
        raise AssertionError(f"the engine's process {why}. Its output ends:\n{tail}")
    good, answer = pickle.loads(bytes(parts[receive]))
    if not good:
        raise AssertionError(f"{answer}\nThe output ends:\n{tail}")
    return answer


@dataclass
class Request:
    """A request of a test. Steps are counted from 0."""

    prompt: list[int]
    out: int
    """Tokens to generate, unless it is aborted."""
    kv: Any = None
    """`extra_args["leankv"]`."""
    arrival: int = 0
    """The step before which it arrives."""
    abort: int | None = None
    """Steps after its arrival when it is given up."""
    logprobs: int | None = None
    """`prompt_logprobs`."""


@dataclass
class Served:
    """What an engine did."""

    tokens: list[list[int]]
    """Generated tokens of each request."""
    gaps: list[list[float]]
    """Log-probability of each generated token less that of the next best one."""
    reasons: list[str | None]
    """Why each request ended; None where it was aborted."""
    preemptions: int
    steps: int
    capacity: int
    """Tokens that vLLM says fit its memory."""
    most_running: int
    scheduler: str
    """Name of the scheduler's class."""
    free_blocks: tuple[int, int]
    """Blocks that the scheduler has at the end, and had at the start."""
    alive: int | None = None
    """Requests that the worker's cache holds after one more request's step."""
    ledger: list[tuple[int, int]] = field(default_factory=list)
    """(true bytes, charged bytes) after each step."""
    stats: list[Mapping[str, int]] = field(default_factory=list)
    """Totals of the cache after each step."""
    metrics: dict[str, float] = field(default_factory=dict)
    """vLLM's metrics of the name leankv at the end."""


def environment() -> None:
    """Set before vLLM is imported."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        HF_HUB_OFFLINE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_LOGGING_LEVEL="WARNING",
        VLLM_NO_USAGE_STATS="1",
    )


def prompts(n: int, seed: int = 1, lengths: Sequence[int] = (40, 130, 300, 411)) -> list[list[int]]:
    """Prompts of random tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(3, 500) for _ in range(draw.choice(lengths))] for _ in range(n)]


def engine_args(model: pathlib.Path, leankv: Mapping[str, Any] | None, memory: int, **more: Any) -> dict[str, Any]:
    """Arguments of vLLM's LLM for a tiny model with `memory` bytes of KV. Without `leankv` it is stock."""
    args: dict[str, Any] = dict(
        model=str(model),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=640,
        # In f32 two runs whose batches differ agree to 1e-5, so that their tokens can be compared.
        dtype="float32",
        block_size=32,
        max_num_seqs=16,
        max_num_batched_tokens=512,
        enable_prefix_caching=False,
        async_scheduling=False,
        kv_cache_memory_bytes=memory,
        disable_log_stats=False,
    )
    if leankv is not None:
        args |= dict(
            additional_config={"leankv": {"chunk": 128, "check": True, "metrics_every": 0, **leankv}},
            kv_transfer_config=dict(CONNECTOR),
        )
    return args | more


def serve(args: Mapping[str, Any], requests: Sequence[Request], watch: Callable[[Any], None] | None = None) -> Served:
    """Runs requests through an engine in this process, and one more after them, so that the worker hears of the last ones' ends.

    `watch` is called with the worker's cache before each step.
    """
    from vllm import EngineArgs, LLMEngine, SamplingParams

    config = EngineArgs(**args).create_engine_config()
    # vLLM turns it off on processors, where it gains nothing. On GPUs it is the default, so the bookkeeping is tested with it.
    config.scheduler_config.async_scheduling = bool(args["async_scheduling"])
    engine = LLMEngine.from_vllm_config(config, disable_log_stats=False)
    scheduler = engine.engine_core.engine_core.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    ours = "additional_config" in args
    cache = None
    if ours:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        cache = get_kv_transfer_group().cache
    free_at_start = pool.get_num_free_blocks()
    tokens: dict[str, list[int]] = {str(i): [] for i in range(len(requests))}
    gaps: dict[str, list[float]] = {name: [] for name in tokens}
    reasons: dict[str, str | None] = dict.fromkeys(tokens)
    stats = []
    step = most = 0
    pending = sorted(range(len(requests)), key=lambda i: requests[i].arrival)
    aborts: dict[int, list[str]] = {}
    while pending or engine.has_unfinished_requests():
        while pending and (requests[pending[0]].arrival <= step or not engine.has_unfinished_requests()):
            i = pending.pop(0)
            request = requests[i]
            params = SamplingParams(
                max_tokens=request.out,
                temperature=0,
                detokenize=False,
                ignore_eos=True,
                logprobs=2,
                prompt_logprobs=request.logprobs,
                extra_args=None if request.kv is None else {"leankv": request.kv},
            )
            engine.add_request(str(i), {"prompt_token_ids": request.prompt}, params)
            if request.abort is not None:
                aborts.setdefault(step + request.abort, []).append(str(i))
        if gone := aborts.pop(step, None):
            engine.abort_request(gone)
        if watch is not None:
            watch(cache)
        for output in engine.step():
            completion = output.outputs[0]
            tokens[output.request_id] = list(completion.token_ids)
            gaps[output.request_id] = [_gap(each) for each in completion.logprobs or ()]
            reasons[output.request_id] = completion.finish_reason
        if cache is not None:
            stats.append(dict(cache.native.totals()))
        step += 1
        most = max(most, len(scheduler.running))
    engine.add_request(
        "last", {"prompt_token_ids": [5] * 10}, SamplingParams(max_tokens=2, temperature=0, detokenize=False, ignore_eos=True)
    )
    while engine.has_unfinished_requests():
        engine.step()
    metrics = {metric.name: getattr(metric, "value", None) for metric in engine.get_metrics()}
    return Served(
        tokens=list(tokens.values()),
        gaps=list(gaps.values()),
        reasons=list(reasons.values()),
        preemptions=int(metrics["vllm:num_preemptions"]),
        steps=step,
        capacity=engine.vllm_config.cache_config.kv_cache_size_tokens,
        most_running=most,
        scheduler=type(scheduler).__name__,
        free_blocks=(pool.get_num_free_blocks(), free_at_start),
        alive=cache.native.totals()["requests"] if cache is not None else None,
        ledger=list(cache.ledger) if cache is not None else [],
        stats=stats,
        metrics={name: value for name, value in metrics.items() if "leankv" in name},
    )


def _gap(logprobs: Mapping[int, Any]) -> float:
    best, next_best, *_ = sorted((each.logprob for each in logprobs.values()), reverse=True)
    return best - next_best


def assert_same(one: Served, other: Served, gap: float, only: Sequence[int] | None = None, share: float = 0.8) -> None:
    """Requests have the same tokens in both, up to the first token of `one` that beat the next best one by less than `gap`.

    After such a token either continuation is right. At least `share` of the tokens must have been compared. `only` names requests; one that
    was given up is compared as far as both got.
    """
    compared = total = 0
    for i in range(len(one.tokens)) if only is None else only:
        both = min(len(one.tokens[i]), len(other.tokens[i]))
        until = next((at for at in range(both) if one.gaps[i][at] < gap), both)
        assert one.tokens[i][:until] == other.tokens[i][:until], f"request {i}: {one.gaps[i][:until]}"
        compared += until
        total += both
    assert total > 0 and compared >= share * total, f"{compared} of {total} tokens were compared"
