"""What LeanKV does not do is refused at start-up: one sentence for each, which says what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from fleet import CONNECTOR, MB, Request, engine_args, forked, serve


def config(model, leankv: dict[str, Any] | None = None, transfer: dict[str, Any] | None = None, **more: Any):
    """vLLM's own configuration of an engine with LeanKV, as its command line would make it."""
    from vllm.engine.arg_utils import EngineArgs

    args = engine_args(model, leankv or {}, 64 * MB)
    args["kv_transfer_config"] = {**CONNECTOR, **(transfer or {})}
    return EngineArgs(**(args | more)).create_engine_config()


def refusals(model, changes: dict[str, Any], *args: Any, **kwargs: Any) -> list[str]:
    """The refusals of a configuration, with attributes changed after vLLM's own checks."""
    from leankv_vllm.config import refusals as find

    made = config(model, *args, **kwargs)
    for path, value in changes.items():
        part, name = path.split(".")
        object.__setattr__(getattr(made, part), name, value)
    return list(find(made))


def one_sentence(text: str) -> None:
    assert text.endswith(".")
    assert "\n" not in text
    assert re.search(r"use|set|turn|remove|leave|install|give|start|name|add", text), text


def test_a_plain_engine_is_not_refused(tiny_model):
    assert forked(refusals, tiny_model, {}) == []


# Options that vLLM's own checks let through, and what of the model or the engine cannot be had from a tiny model, set afterwards.
CASES = {
    "prefix caching": ({}, dict(enable_prefix_caching=True), "--no-enable-prefix-caching"),
    "speculative decoding": (
        {},
        dict(speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}),
        "speculative",
    ),
    "a format of vLLM's own": ({}, dict(kv_cache_dtype="fp8"), "leave it at auto"),
    "failed loads that are recomputed": ({}, dict(transfer={"kv_load_failure_policy": "recompute"}), "kv_load_failure_policy"),
    "another role": ({}, dict(transfer={"kv_role": "kv_producer"}), 'set it to "kv_both"'),
    "pipeline parallelism": ({"parallel_config.pipeline_parallel_size": 2}, {}, "--pipeline-parallel-size"),
    "context parallelism": ({"parallel_config.decode_context_parallel_size": 2}, {}, "context-parallel"),
    "offloading": ({"cache_config.kv_offloading_size": 1.0}, {}, "--kv-offloading-size"),
    "sleep mode": ({"model_config.enable_sleep_mode": True}, {}, "--enable-sleep-mode"),
    "embeddings": ({"model_config.runner_type": "pooling"}, {}, "--runner generate"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_refused_in_one_sentence(tiny_model, case):
    changes, kwargs, wanted = CASES[case]
    (sentence,) = forked(refusals, tiny_model, changes, **kwargs)
    one_sentence(sentence)
    assert wanted in sentence


def model_refusals(name: str) -> list[str]:
    """The refusals of a model of which one property is true. Properties of vLLM's configuration are computed, so it is stood in for."""
    from types import SimpleNamespace

    from leankv_vllm.config import refusals as find

    model = dict(
        enable_sleep_mode=False,
        runner_type="generate",
        is_encoder_decoder=False,
        use_mla=False,
        is_hybrid=False,
        is_attention_free=False,
        is_mm_prefix_lm=False,
        dtype="torch.bfloat16",
    )
    model[name] = "torch.float64" if name == "dtype" else True
    return list(
        find(
            SimpleNamespace(
                cache_config=SimpleNamespace(enable_prefix_caching=False, cache_dtype="auto", kv_offloading_size=None),
                model_config=SimpleNamespace(**model),
                parallel_config=SimpleNamespace(
                    pipeline_parallel_size=1, decode_context_parallel_size=1, prefill_context_parallel_size=1
                ),
                kv_transfer_config=SimpleNamespace(kv_role="kv_both", kv_load_failure_policy="fail"),
                speculative_config=None,
            )
        )
    )


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("is_encoder_decoder", "decoder-only"),
        ("use_mla", "MLA"),
        ("is_hybrid", "recurrent"),
        ("is_attention_free", "recurrent"),
        ("is_mm_prefix_lm", "causal"),
        ("dtype", "--dtype bfloat16"),
    ],
)
def test_models_are_refused_in_one_sentence(vllm, name, wanted):
    (sentence,) = model_refusals(name)
    one_sentence(sentence)
    assert wanted in sentence


def test_other_devices_are_refused_as_untested(tiny_model, monkeypatch):
    from leankv_vllm import config as module

    class Gpu:
        device_type = "cuda"

        @staticmethod
        def is_cpu() -> bool:
            return False

    monkeypatch.setattr(module, "current_platform", Gpu)
    (sentence,) = forked(refusals, tiny_model, {})
    one_sentence(sentence)
    assert "untested on cuda" in sentence


def test_another_version_of_vllm_is_refused(vllm):
    from leankv_vllm.compat import version_problem

    assert version_problem(vllm.__version__) is None
    for version in ("0.31.2", "0.33.0", "1.32.0", "0.320.0"):
        sentence = version_problem(version)
        one_sentence(sentence)
        assert version in sentence


@pytest.mark.parametrize(
    "leankv, wanted",
    [
        ({"kw": "K8V4"}, "no key 'kw'"),
        ({"chunk": 0}, "The key chunk"),
        ({"chunk": "512"}, "The key chunk"),
        ({"unit_tokens": -1}, "The key unit_tokens"),
        ({"more_kv": "K8V4"}, "give a list"),
        ({"kv": 8}, "give a text"),
        ({"check": "yes"}, "The key check"),
    ],
)
def test_options_that_are_none_are_refused(vllm, leankv, wanted):
    from types import SimpleNamespace

    from leankv_vllm.config import options_of

    with pytest.raises(ValueError, match=wanted) as error:
        options_of(SimpleNamespace(additional_config={"leankv": leankv}))
    one_sentence(str(error.value))


def test_the_environment_names_the_way_where_the_options_do_not(vllm, monkeypatch):
    from types import SimpleNamespace

    from leankv_vllm.config import Options, options_of

    monkeypatch.setenv("LEANKV_KV", "K8V4")
    assert options_of(SimpleNamespace(additional_config={})).kv == "K8V4"
    assert options_of(SimpleNamespace(additional_config={"leankv": {"kv": "fp16"}})).kv == "fp16"
    monkeypatch.delenv("LEANKV_KV")
    assert options_of(SimpleNamespace(additional_config={})) == Options()


# Whole engines, which show that a refusal reaches the user. Messages of vLLM's own errors may come before it.


def refusal_of(args: dict[str, Any]) -> str:
    """The text of the error that an engine dies of at its start."""
    with pytest.raises(AssertionError) as error:
        forked(serve, args, [])
    return str(error.value)


def test_the_first_layer_refuses(tiny_model):
    text = refusal_of(engine_args(tiny_model, {}, 64 * MB, enable_prefix_caching=True))
    assert "turn prefix caching off with --no-enable-prefix-caching." in text


def test_options_without_the_connector(tiny_model):
    args = engine_args(tiny_model, {}, 64 * MB)
    del args["kv_transfer_config"]
    text = refusal_of(args)
    assert 'additional_config has "leankv", but the KV connector is none' in text


def test_other_connectors(tiny_model):
    args = engine_args(tiny_model, {}, 64 * MB)
    args["kv_transfer_config"] = {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [CONNECTOR]},
    }
    assert "name LeanKvConnector alone, without MultiConnector." in refusal_of(args)


def test_a_way_that_does_not_parse(tiny_model):
    assert "K9V9" in refusal_of(engine_args(tiny_model, {"kv": "K9V9"}, 64 * MB))


@pytest.mark.parametrize("leankv, way", [({"kv": "fp16"}, "fp16"), ({"kv": "K8V4", "more_kv": ["fp16"]}, "K8V4|fp16")])
def test_too_little_memory_for_one_request(tiny_model, leankv, way):
    text = refusal_of(engine_args(tiny_model, leankv, MB))
    wanted = rf"one request of max_model_len 640 may take \d+\.\d MiB at (?:{way}): give at least (\d+\.\d) MiB"
    assert (found := re.search(wanted, text, re.I)), text
    least = float(found.group(1)) + 0.1
    served = forked(serve, engine_args(tiny_model, leankv, int(least * MB)), [Request([3] * 630, 9)])
    assert served.reasons == ["length"]


def altered(model, **changes: Any):
    """The tiny model with another configuration."""
    import json
    import shutil

    folder = model.parent / f"{model.name}-{'-'.join(changes)}"
    if not folder.exists():
        shutil.copytree(model, folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_sliding_window(tiny_model):
    layers = ["full_attention", "sliding_attention"] * 2
    model = altered(tiny_model, layer_types=layers, sliding_window=64)
    text = refusal_of(engine_args(model, {}, 64 * MB))
    assert "this model has a sliding window of 64 tokens" in text


@pytest.mark.parametrize(
    "changes, wanted",
    [
        (dict(alibi_slopes=[1.0]), "ALiBi"),
        (dict(logits_soft_cap=30.0), "soft cap"),
        (dict(sliding_window=9), "sliding window of 9"),
        (dict(sinks=True), "sinks"),
        (dict(attn_type="encoder_only"), "encoder_only"),
        (dict(kv_sharing_target_layer_name="model.layers.0"), "share"),
        (dict(scale=0.5), "1/sqrt"),
        (dict(novelty=1), "novelty"),
    ],
)
def test_layers_are_refused_in_one_sentence(tiny_model, changes, wanted):
    sentence = forked(layer_refusal, tiny_model, changes)
    one_sentence(sentence)
    assert wanted in sentence


def layer_refusal(model, changes: dict[str, Any]) -> str:
    """The error of a layer that is built as vLLM builds it."""
    from leankv_vllm.arena.backend import LeanKvImpl
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(config(model)):
        # vLLM's base class looks its process groups up before `__init__`.
        impl = object.__new__(LeanKvImpl)
        try:
            impl.__init__(**{**dict(num_heads=6, head_size=64, scale=0.125, num_kv_heads=2), **changes})
        except ValueError as error:
            return str(error)
    return "it was taken"


def test_a_missing_native_module_is_told_and_does_not_stop_stock_vllm():
    code = "import sys; sys.modules['leankv'] = None; import leankv_vllm; leankv_vllm.register(); import leankv_vllm.arena.worker"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert "in <module>" not in last and last.startswith("ImportError: leankv-vllm needs the native module leankv"), done.stderr
    one_sentence(last)
    # `register` itself went well: the import of the worker is what failed.
    assert "arena/worker.py" in done.stderr and "leankv_vllm/__init__.py" not in done.stderr


def test_an_engine_without_the_connector_stays_stock(tiny_model):
    assert forked(implementation, engine_args(tiny_model, None, 64 * MB)) == "CPUAttentionBackendImpl"
    assert forked(implementation, engine_args(tiny_model, {}, 64 * MB)) == "LeanKvImpl"


def implementation(args: dict[str, Any]) -> str:
    """The class of the attention of an engine's layers."""
    from vllm import LLM

    llm = LLM(**args)
    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context.values()
    (name,) = {type(layer.impl).__name__ for layer in layers}
    return name
