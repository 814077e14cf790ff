"""A real model in bf16: SmolLM2-135M. The text of stock vLLM, and what compression costs in perplexity."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import pytest
from fleet import CONNECTOR, MB, forked

pytestmark = pytest.mark.native

NOVEL = pathlib.Path(__file__).resolve().parents[2] / "data" / "emma.txt"
QUESTIONS = ("What is a page table?", "Name three rivers of Europe.", "Write a sentence about the sea.")
TOKENS = 1536
"""Tokens of the novel that are read."""
FROM = 768
"""The first token that counts: those before it lie in chunks that see little that is compressed."""


def engine(model: pathlib.Path, kv: str | None) -> Any:
    """SmolLM2 in vLLM; stock without `kv`."""
    from vllm import LLM

    args: dict[str, Any] = dict(
        model=str(model),
        enforce_eager=True,
        max_model_len=2048,
        dtype="bfloat16",
        max_num_seqs=4,
        max_num_batched_tokens=512,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=192 * MB,
    )
    if kv is not None:
        args |= dict(
            additional_config={"leankv": {"kv": kv, "check": True}},
            kv_transfer_config=dict(CONNECTOR),
        )
    return LLM(**args)


def answers(model: pathlib.Path, kv: str | None) -> list[tuple[str, list[int], list[float]]]:
    """Answers of 40 tokens: text, tokens, and what each token's log-probability is above the next best one's."""
    from vllm import SamplingParams

    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, logprobs=2)
    out = []
    for output in engine(model, kv).chat(chats, params, use_tqdm=False):
        answer = output.outputs[0]
        gaps = []
        for each in answer.logprobs:
            best, next_best, *_ = sorted((token.logprob for token in each.values()), reverse=True)
            gaps.append(best - next_best)
        out.append((answer.text, list(answer.token_ids), gaps))
    return out


def perplexity(model: pathlib.Path, kv: str | None) -> float:
    """Of tokens FROM to TOKENS of a novel, read as one prompt in pieces of 512."""
    from vllm import SamplingParams

    llm = engine(model, kv)
    tokens = llm.get_tokenizer().encode(NOVEL.read_text())[:TOKENS]
    assert len(tokens) == TOKENS
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    (output,) = llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)
    told = [each[token].logprob for each, token in zip(output.prompt_logprobs[FROM:], tokens[FROM:])]
    assert len(told) == TOKENS - FROM
    return math.exp(-sum(told) / len(told))


def test_fp16_gives_the_text_of_stock_vllm(vllm, smollm2):
    """All 40 tokens of the first answer. In the others, up to a token that beat the next one by less than bf16 resolves (an eighth of 16)."""
    stock = forked(answers, smollm2, None)
    ours = forked(answers, smollm2, "fp16")
    assert ours[0][0] == stock[0][0]
    assert len(stock[0][1]) == 40
    for (_, mine, _), (_, theirs, gaps) in zip(ours, stock):
        until = next((at for at, gap in enumerate(gaps) if gap < 0.125), 40)
        assert mine[:until] == theirs[:until]
        assert until > 4, "nothing was compared"


def test_perplexity(vllm, smollm2, capsys):
    """Printed for the record. The bounds are wide: this is one text of 768 tokens."""
    found = {kv or "stock": forked(perplexity, smollm2, kv) for kv in (None, "fp16", "K8V4", "K8V4/K4V2@1/5")}
    with capsys.disabled():
        print()
        for name, value in found.items():
            print(f"perplexity {name}: {value:.3f} ({100 * (value / found['stock'] - 1):+.2f} % over stock)")
    assert found["fp16"] == pytest.approx(found["stock"], rel=0.005)
    assert found["K8V4"] == pytest.approx(found["stock"], rel=0.04)
    assert found["K8V4/K4V2@1/5"] == pytest.approx(found["stock"], rel=0.12)
    assert found["K8V4/K4V2@1/5"] != found["stock"]
