"""Requests' lives through the stock scheduler: nobody is mixed up, nobody stays, and the charge is never passed.

The option `check` is on in every engine: after each step it audits the cache and compares its bytes with the charge, and raises.
"""

from __future__ import annotations

import random

import pytest
from fleet import MB, Request, Served, assert_same, engine_args, forked, prompts, serve

FP16 = {"kv": "fp16"}
FIFTH = {"kv": "K8V4/K4V2@1/5"}
# 12 requests of 250 tokens take 12 x 250 x 4 layers x 2 heads x 64 x 2 x 2 bytes = 6 MB in FP16. This holds three.
SMALL = 2 * MB
# Least gap of two tokens' log-probabilities that a change of the batch does not close, and that rounding keys and values to FP16 does not.
BATCH, ROUNDING = 1e-4, 1e-2


def sane(served: Served, requests: list[Request]) -> None:
    """What must hold whatever happened."""
    for i, (request, tokens, reason) in enumerate(zip(requests, served.tokens, served.reasons)):
        if request.abort is None:
            assert (len(tokens), reason) == (request.out, "length"), f"request {i}"
    assert served.free_blocks[0] == served.free_blocks[1], "blocks were lost"
    if served.alive is not None:
        assert served.alive == 1, "requests stayed in the worker's cache"
        # With asynchronous scheduling a few of the engine's steps only fetch what an earlier one made.
        assert len(served.ledger) >= 0.9 * served.steps, "steps were not checked"
        assert all(used <= charged for used, charged in served.ledger)
        assert max(used for used, _ in served.ledger) > 0


def batch(n: int = 12, out: int = 24) -> list[Request]:
    return [Request(prompt, out) for prompt in prompts(n)]


@pytest.fixture(scope="module")
def fp16(tiny_model) -> Served:
    """FP16 in the arena, with room for all."""
    served = forked(serve, engine_args(tiny_model, FP16, 64 * MB), batch())
    sane(served, batch())
    return served


@pytest.fixture(scope="module")
def fifth(tiny_model) -> Served:
    served = forked(serve, engine_args(tiny_model, FIFTH, 64 * MB), batch())
    sane(served, batch())
    return served


def test_fp16_gives_the_tokens_of_stock_vllm(tiny_model, fp16):
    stock = forked(serve, engine_args(tiny_model, None, 64 * MB), batch())
    assert fp16.scheduler == stock.scheduler == "Scheduler"
    assert fp16.preemptions == 0
    assert_same(stock, fp16, ROUNDING, share=0.6)
    assert len({tuple(tokens) for tokens in stock.tokens}) == len(stock.tokens), "the model tells its prompts apart"


def test_requests_wait_for_memory_and_get_the_same_tokens(tiny_model, fp16):
    served = forked(serve, engine_args(tiny_model, FP16, SMALL), batch())
    sane(served, batch())
    assert served.most_running < fp16.most_running == 12, "nobody waited"
    assert_same(fp16, served, BATCH)


@pytest.mark.native
def test_a_fifth_of_the_bytes_serves_more_requests_at_once(tiny_model):
    served = forked(serve, engine_args(tiny_model, FIFTH, SMALL), batch())
    plain = forked(serve, engine_args(tiny_model, FP16, SMALL), batch())
    sane(served, batch())
    # A prompt is charged most of its FP16 bytes while it comes, so the longest request gains less than the rest.
    assert served.capacity > 1.2 * plain.capacity
    assert served.most_running > plain.most_running


@pytest.mark.parametrize("kv", ["fp16", pytest.param("K8V4/K4V2@1/5", marks=pytest.mark.native)])
@pytest.mark.parametrize("scheduling", ["sync", "async"])
def test_preempted_requests_come_back(tiny_model, kv, scheduling):
    requests = [Request(prompt, 200) for prompt in prompts(10)]
    memory = SMALL if kv == "fp16" else MB
    more = dict(async_scheduling=scheduling == "async")
    tight = forked(serve, engine_args(tiny_model, {"kv": kv}, memory, **more), requests)
    sane(tight, requests)
    assert tight.preemptions >= 1
    assert tight.scheduler == ("AsyncScheduler" if scheduling == "async" else "Scheduler")
    if kv == "fp16":
        roomy = forked(serve, engine_args(tiny_model, {"kv": kv}, 64 * MB), requests)
        sane(roomy, requests)
        assert roomy.preemptions == 0
        # A request that comes back computes its own tokens anew as a prompt.
        assert_same(roomy, tight, BATCH)


def test_aborted_requests_free_their_memory(tiny_model, fp16):
    requests = batch()
    for i in (0, 3, 11):
        requests[i].abort = 4 + i
    served = forked(serve, engine_args(tiny_model, FP16, SMALL), requests)
    sane(served, requests)
    assert all(len(served.tokens[i]) < 24 for i in (0, 3, 11))
    assert_same(fp16, served, BATCH)


def test_prompts_are_cut_as_the_scheduler_likes(tiny_model, fp16):
    """Without a budget of bytes no cut changes a token. With one, what is dropped before a row sees it depends on the cuts."""
    k8v4 = forked(serve, engine_args(tiny_model, {"kv": "K8V4"}, 64 * MB), batch())
    for options, reference in ((FP16, fp16), ({"kv": "K8V4"}, k8v4), (FIFTH, None)):
        args = engine_args(tiny_model, options, 64 * MB, max_num_batched_tokens=97, max_num_seqs=13)
        served = forked(serve, args, batch())
        sane(served, batch())
        if reference is not None:
            assert_same(reference, served, BATCH)


def test_each_request_may_choose_its_way(tiny_model, fp16, fifth):
    ways = [None, "fp16", {"kv": "k8v4"}]
    requests = [Request(prompt, 24, kv=ways[i % 3]) for i, prompt in enumerate(prompts(12))]
    options = {"kv": "K8V4/K4V2@1/5", "more_kv": ["fp16", "K8V4"]}
    served = forked(serve, engine_args(tiny_model, options, 64 * MB), requests)
    sane(served, requests)
    assert_same(fifth, served, BATCH, only=range(0, 12, 3))
    assert_same(fp16, served, BATCH, only=range(1, 12, 3))


def test_a_request_that_names_an_unknown_way_fails_alone(tiny_model, fp16):
    requests = batch()
    bad = (2, 5, 7)
    for i, kv in zip(bad, ("K9V9", {"kv": "K8V4@1/3"}, 4)):
        requests[i].kv = kv
    served = forked(serve, engine_args(tiny_model, FP16, 64 * MB), requests)
    assert [served.reasons[i] for i in bad] == ["error"] * 3
    assert [served.tokens[i] for i in bad] == [[]] * 3
    good = sorted(set(range(12)) - set(bad))
    assert {served.reasons[i] for i in good} == {"length"}
    assert_same(fp16, served, BATCH, only=good)
    assert served.free_blocks[0] == served.free_blocks[1]
    assert served.alive == 1
    assert served.metrics["vllm:leankv_refused"] == 3


def test_where_vllm_cannot_fail_it_a_request_gets_the_default_way(tiny_model, fp16):
    """vLLM asks no connector for requests that want their prompt's probabilities."""
    requests = batch()[:3]
    requests[1].kv = "K9V9"
    requests[1].logprobs = 1
    served = forked(serve, engine_args(tiny_model, FP16, 64 * MB), requests)
    sane(served, requests)
    assert_same(fp16, served, BATCH, only=range(3))


def test_a_request_that_breaks_fails_alone(tiny_model, fp16):
    """The native cache refuses a request in the middle of its life: it was freed behind the plugin's back."""
    served = forked(serve, engine_args(tiny_model, FP16, 64 * MB), batch(), free_one)
    failed = [i for i, reason in enumerate(served.reasons) if reason == "error"]
    assert len(failed) == 1
    good = sorted(set(range(12)) - set(failed))
    assert {served.reasons[i] for i in good} == {"length"}
    assert_same(fp16, served, BATCH, only=good)
    assert served.alive == 1
    assert served.free_blocks[0] == served.free_blocks[1]


def free_one(cache) -> None:
    """Frees one request after the eighth step."""
    if len(cache.ledger) != 8:
        return
    for handle in range(1, 4096):
        try:
            held = cache.native.tokens(handle)
        except Exception:
            continue
        if held:
            cache.native.free([handle])
            return


@pytest.mark.parametrize("seed", [1, 2])
def test_two_hundred_random_requests(tiny_model, seed):
    draw = random.Random(seed)
    ways = ["K8V4/K4V2@1/5", "K8V4", "fp16"]
    requests = []
    at = 0
    for prompt in prompts(200, seed=seed, lengths=(3, 17, 64, 129, 300, 500)):
        at += draw.choice([0, 0, 1, 2, 5])
        abort = draw.randrange(0, 40) if draw.random() < 0.2 else None
        out = draw.choice([1, 2, 9, 40])
        requests.append(Request(prompt, out, kv=draw.choice([None, *ways]), arrival=at, abort=abort))
    options = {"kv": ways[0], "more_kv": ways[1:]}
    more = dict(async_scheduling=seed == 2, dtype="bfloat16")
    served = forked(serve, engine_args(tiny_model, options, 2 * MB, **more), requests)
    sane(served, requests)
    assert served.preemptions >= 1


def test_metrics_tell_what_the_cache_holds(tiny_model):
    served = forked(serve, engine_args(tiny_model, FIFTH, 64 * MB), batch())
    metrics = served.metrics
    assert metrics["vllm:leankv_requests"] == 1
    assert metrics["vllm:leankv_bytes"] > 0
    assert metrics["vllm:leankv_charged_bytes"] >= metrics["vllm:leankv_bytes"]
    assert metrics["vllm:leankv_slack_bytes"] == metrics["vllm:leankv_charged_bytes"] - metrics["vllm:leankv_bytes"]
    assert metrics["vllm:leankv_arena_bytes"] <= 64 * MB
    # The last request has 10 tokens of its prompt and 1 of its own in 4 layers of 2 heads.
    entries = sum(metrics[f"vllm:leankv_{tier}"] for tier in ("high", "low", "pruned"))
    assert entries == 11 * 4 * 2


def tensor_parallel(args: dict, requests: list[Request]) -> list[list[int]]:
    """Tokens of requests in an engine of its own process, with a worker process for each rank."""
    import os

    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="1", VLLM_WORKER_MULTIPROCESSING_METHOD="fork")
    from vllm import LLM, SamplingParams

    llm = LLM(**args)
    params = SamplingParams(max_tokens=24, temperature=0, detokenize=False, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": each.prompt} for each in requests], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_two_workers_with_a_head_each(tiny_model, fp16):
    """Tensor parallelism: the engine, and two workers with a native cache each, in processes of their own."""
    args = engine_args(
        tiny_model, FP16, SMALL, tensor_parallel_size=2, distributed_executor_backend="mp", max_num_seqs=12
    )
    tokens = forked(tensor_parallel, args, batch())
    # Sums over two ranks are rounded otherwise: near ties may go the other way.
    fp16_until = [
        next((at for at, gap in enumerate(gaps) if gap < ROUNDING), len(gaps)) for gaps in fp16.gaps
    ]
    assert sum(fp16_until) > 100
    for mine, theirs, until in zip(tokens, fp16.tokens, fp16_until):
        assert mine[:until] == theirs[:until]


def test_compiled_models(tiny_model, fp16, tmp_path, monkeypatch):
    """torch.compile takes attention as one opaque call."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    served = forked(serve, engine_args(tiny_model, FP16, 64 * MB, enforce_eager=False), batch())
    sane(served, batch())
    assert_same(fp16, served, 1e-3)
