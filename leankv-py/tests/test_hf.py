"""`HFCache` inside transformers: the same text as with its own cache, true bytes, and what is refused.

With a folder of a small model in LEANKV_TEST_MODEL, such as SmolLM2-135M, the same for it, and its perplexity by cache.
"""

from __future__ import annotations

import copy
import os
import pathlib
import subprocess
import sys

import leankv
import pytest

torch = pytest.importorskip("torch", reason="HFCache is for torch, which is not installed")
transformers = pytest.importorskip("transformers", reason="HFCache is for transformers, which is not installed")

SHAPE = dict(
    vocab_size=211,
    hidden_size=128,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=2048,
)


def model(kind: str = "Llama", dtype: torch.dtype = torch.float32, **changes):
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **changes})
    config._attn_implementation = "sdpa"
    made = getattr(transformers, f"{kind}ForCausalLM")(config).eval().to(dtype)
    # Random weights attend evenly; sharper ones tell caches apart.
    for name, weight in made.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data *= 8
    return made


def prompt(rows: int, tokens: int, vocabulary: int = 211) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(tokens))
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids))


def greedy(made, inputs, cache, tokens: int = 40) -> torch.Tensor:
    return made.generate(**inputs, max_new_tokens=tokens, do_sample=False, past_key_values=cache, eos_token_id=None)


@torch.no_grad()
def assert_same(made, ours: torch.Tensor, stock: torch.Tensor) -> None:
    """That two texts are the same, up to a token that the model holds to be as good: random weights have such ties."""
    for row in range(len(stock)):
        differs = (ours[row] != stock[row]).nonzero()
        if len(differs):
            at = int(differs[0])
            of_next = made(stock[row : row + 1, :at]).logits[0, -1]
            gap = of_next[stock[row, at]] - of_next[ours[row, at]]
            assert gap < 0.005 * of_next.std(), (row, at, gap)


@torch.no_grad()
def logits(made, ids: torch.Tensor, cache, start: int) -> torch.Tensor:
    """Of the prompt `ids[:, :start]` and of each token after it, which comes by itself."""
    given = [made(ids[:, :start], past_key_values=cache).logits]
    given += [made(ids[:, at : at + 1], past_key_values=cache).logits for at in range(start, ids.shape[1])]
    return torch.cat(given, 1)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Mistral"])
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_text_is_that_of_transformers_own_cache(kind, rows):
    made, inputs = model(kind, **(dict(sliding_window=None) if kind == "Mistral" else {})), prompt(rows, 70)
    cache = leankv.HFCache("fp16", max_tokens=200, chunk=64)
    text = greedy(made, inputs, cache)
    assert_same(made, text, greedy(made, inputs, transformers.DynamicCache(config=made.config)))
    assert cache.get_seq_length() == cache.stats()["tokens"] == 109
    assert cache.native is not None and cache.native.audit() == []
    cache.reset()
    assert torch.equal(text, greedy(made, inputs, cache)), "a cache that was reset is as a new one"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_are_close_in_every_type(dtype):
    made, ids = model(dtype=dtype), prompt(2, 60)["input_ids"]
    ours = logits(made, ids, leankv.HFCache("fp16", max_tokens=60, chunk=16), 41)
    stock = logits(made, ids, transformers.DynamicCache(config=made.config), 41)
    worst = 0.02 if dtype == torch.float32 else 0.1
    assert (ours.float() - stock.float()).abs().max() < worst * stock.float().abs().max()


def test_fewer_bits_lose_more_and_hold_fewer_bytes():
    made, ids = model(), prompt(1, 420)["input_ids"]
    stock = logits(made, ids, transformers.DynamicCache(config=made.config), 360)
    lost, bytes_ = [], []
    for kv in ["fp16", "K8V8", "K4V4", "K4V2"]:
        cache = leankv.HFCache(kv, max_tokens=500, chunk=128)
        lost.append(float((logits(made, ids, cache, 360) - stock).square().mean()))
        held = cache.stats()
        bytes_.append(held["bytes"])
        assert held["fp16_bytes"] == 420 * 3 * 2 * 32 * 4
        assert held["compression"] == held["fp16_bytes"] / held["bytes"]
        assert held["high"] == 420 * 3 * 2 and held["low"] == held["pruned"] == 0
    assert lost == sorted(lost) and lost[1] > 2 * lost[0] and lost[3] > 2 * lost[1]
    assert bytes_ == sorted(bytes_, reverse=True) and bytes_[0] > 3 * bytes_[3]


def test_a_budget_is_kept_to():
    made, ids = model(), prompt(2, 900)["input_ids"]
    cache = leankv.HFCache("K8V4/K4V2@1/5:keep=0", max_tokens=1000, chunk=256)
    with torch.no_grad():
        made(ids, past_key_values=cache)
    held = cache.stats()
    assert held["compression"] > 4.9 and held["pruned"] > 0


def test_masks_that_are_plain_are_taken():
    made, ids = model(), prompt(1, 30)["input_ids"]
    seen = torch.ones(30, 30, dtype=torch.bool).tril()[None, None]
    given = []
    for mask in (None, seen, torch.where(seen, 0.0, -torch.inf)):
        with torch.no_grad():
            given.append(made(ids, attention_mask=mask, past_key_values=leankv.HFCache("fp16", max_tokens=40)).logits)
    assert torch.equal(given[0], given[1]) and torch.equal(given[0], given[2])


def test_others_attention_is_left_alone():
    made, inputs = model(), prompt(2, 40)
    inputs["attention_mask"][0, :7] = 0
    before = greedy(made, inputs, transformers.DynamicCache(config=made.config), 5)
    cache = leankv.HFCache("fp16", max_tokens=100)
    step = made(prompt(1, 20)["input_ids"]).logits
    step.sum().backward()
    assert torch.equal(before, greedy(made, inputs, transformers.DynamicCache(config=made.config), 5))
    assert cache.get_seq_length() == 0 and cache.stats()["bytes"] == 0


def refused(call, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        call()
    text = str(error.value)
    assert text.startswith("HFCache: ") and text.endswith(".") and "\n" not in text


def test_what_cannot_be_is_refused_in_one_sentence():
    made, inputs = model(), prompt(2, 20)

    def new(**changes) -> leankv.HFCache:
        return leankv.HFCache("fp16", **{"max_tokens": 64, **changes})

    padded = copy.deepcopy(inputs)
    padded["attention_mask"][0, :3] = 0
    refused(lambda: greedy(made, padded, new()), "padding")
    refused(lambda: made.generate(**inputs, max_new_tokens=3, num_beams=2, past_key_values=new()), "beams")
    refused(lambda: made.generate(**prompt(1, 20), max_new_tokens=3, prompt_lookup_num_tokens=2, past_key_values=new()), "taken back")
    refused(lambda: greedy(made, inputs, new(max_tokens=22)), "max_tokens")
    refused(lambda: made(**inputs, past_key_values=new()), "no_grad")
    refused(lambda: made.generate(**inputs, max_new_tokens=3, prefill_chunk_size=8, past_key_values=new()), "after the prompt")
    with torch.no_grad():
        cache = new()
        made(inputs["input_ids"], past_key_values=cache)
        refused(lambda: made(inputs["input_ids"], past_key_values=cache), "20 tokens came after the prompt")
        refused(lambda: made(inputs["input_ids"][:1, :1], past_key_values=cache), "2 rows, and 1 came")
        assert cache.get_seq_length() == 20
        made(inputs["input_ids"][:, :1], past_key_values=cache)
        refused(lambda: model(dtype=torch.float64)(inputs["input_ids"], past_key_values=new()), "float64")
        far = torch.empty(1, 2, 3, 32, device="meta")
        refused(lambda: new().update(far, far, 0), "host alone")
        refused(lambda: new().update(torch.empty(1, 2, 3, 32), torch.empty(1, 2, 3, 16), 0), "one shape")
        refused(lambda: new().update(torch.empty(1, 2, 3, 32), torch.empty(1, 2, 3, 32), 1), "layer 0 is next")
        eager = model()
        eager.set_attn_implementation("eager")
        refused(lambda: eager(inputs["input_ids"], past_key_values=new()), "sdpa")
        refused(lambda: cache.crop(-1), "taken back")
        refused(lambda: copy.deepcopy(cache), "copied")
    with pytest.raises(ValueError, match="names no KV cache"):
        leankv.HFCache("K9V9")
    leankv.HFCache("K4V4;2=K8V8@1/3")


def test_attention_that_is_not_plain_is_refused():
    inputs = prompt(1, 20)
    narrow = model("Mistral", sliding_window=8)
    refused(lambda: greedy(narrow, inputs, leankv.HFCache("fp16", max_tokens=64)), "sliding window of 8")
    wide = model("Mistral", sliding_window=64)
    text = greedy(wide, inputs, leankv.HFCache("fp16", max_tokens=64), 10)
    assert_same(wide, text, greedy(wide, inputs, transformers.DynamicCache(config=wide.config), 10))
    scaled = model()
    scaled.model.layers[1].self_attn.scaling = 1.0
    cache = leankv.HFCache("fp16", max_tokens=64)
    refused(lambda: greedy(scaled, inputs, cache), "multiplies logits by 1.0")
    refused(lambda: greedy(model(), inputs, cache), "reset")
    cache.reset()
    greedy(model(), inputs, cache, 3)
    capped = model("Gemma2", head_dim=32, query_pre_attn_scalar=32, sliding_window=4096)
    capped.set_attn_implementation("sdpa")
    refused(lambda: greedy(capped, inputs, leankv.HFCache("fp16", max_tokens=64)), "softcap")
    dropping = model(attention_dropout=0.5).train()
    with torch.no_grad():
        refused(lambda: dropping(inputs["input_ids"], past_key_values=leankv.HFCache("fp16", max_tokens=64)), "dropout")


def test_numpy_alone_needs_no_transformers():
    script = "import sys, leankv; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules); leankv.HFCache; assert 'transformers' in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    with pytest.raises(AttributeError):
        leankv.HfCache


@pytest.fixture(scope="module")
def smollm2():
    folder = os.environ.get("LEANKV_TEST_MODEL")
    if not folder:
        pytest.skip("LEANKV_TEST_MODEL names no folder of a model")
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return made, transformers.AutoTokenizer.from_pretrained(folder)


def test_greedy_text_of_a_model(smollm2):
    made, tokenizer = smollm2
    inputs = tokenizer("The quick brown fox jumps over the lazy dog. A page table is", return_tensors="pt")
    text = greedy(made, inputs, leankv.HFCache("fp16", max_tokens=128))
    assert torch.equal(text, greedy(made, inputs, transformers.DynamicCache(config=made.config)))


def test_perplexity_of_a_model(smollm2, capsys):
    made, tokenizer = smollm2
    texts = pathlib.Path(__file__).parents[2] / "data" / "opticks.txt"
    if not texts.exists():
        pytest.skip("data/opticks.txt is not here")
    ids = tokenizer(texts.read_text()[:8000], return_tensors="pt").input_ids[:, :800]

    def perplexity(kv: str | None) -> tuple[float, float]:
        cache = transformers.DynamicCache(config=made.config) if kv is None else leankv.HFCache(kv, max_tokens=800, chunk=256)
        given = logits(made, ids, cache, 600)[0, 599:-1].double().log_softmax(-1)
        loss = -given.gather(-1, ids[0, 600:, None]).mean()
        return float(loss.exp()), cache.stats()["compression"] if kv else 1.0

    found = {kv: perplexity(kv) for kv in (None, "fp16", "K8V4", "K8V4/K4V2@1/5", "K4V2")}
    with capsys.disabled():
        for kv, (number, smaller) in found.items():
            print(f"\n{kv or 'DynamicCache':>16}  perplexity {number:8.4f}  {smaller:5.2f} times smaller", end="")
        print()
    stock = found[None][0]
    assert abs(found["fp16"][0] / stock - 1) < 1e-3
    assert abs(found["K8V4"][0] / stock - 1) < 0.05
    assert abs(found["K8V4/K4V2@1/5"][0] / stock - 1) < 0.15
    assert found["K4V2"][0] > max(found["K8V4"][0], found["fp16"][0])
    assert found["K8V4"][1] > 2 and found["K8V4/K4V2@1/5"][1] > 4.5
