"""Requests' lives, from the scheduler to every worker: a KV connector that moves no KV."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import compat

compat.require_version()

from ..compat import (  # noqa: E402
    KVCacheConfig,
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    VllmConfig,
    init_logger,
)
from ..config import options_of, refuse, request_choice  # noqa: E402
from ..metrics import LeanKvPromMetrics, LeanKvStats  # noqa: E402
from .manager import LeanKvManager  # noqa: E402
from .spec import LeanKvSpec  # noqa: E402
from .worker import WorkerCache  # noqa: E402

logger = init_logger("vllm.leankv")

ALIGNMENT = 128
"""Bytes to which the native cache's memory is aligned."""


@dataclass
class Lives(KVConnectorMetadata):
    """What a worker must know before a step."""

    ended: list[int] = field(default_factory=list)
    """Handles of requests that finished, were given up or were preempted. They come before `admitted`: a handle may be in both."""
    admitted: list[tuple[int, int, str | None]] = field(default_factory=list)
    """(handle, tokens that come as the prompt, way of compressing or None)."""
    refused: list[str] = field(default_factory=list)
    """Ids of requests that are to fail: they named a way of compressing that the server does not have."""
    charged_bytes: int = 0
    """What all requests are charged."""


class LeanKvConnector(KVConnectorBase_V1):
    """On the scheduler's side: admits, ends, charges. On the worker's: owns the native cache (`cache`)."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        refuse(vllm_config)
        self.options = options_of(vllm_config)
        self.spec = _spec(kv_cache_config)
        self._seen = float("-inf")
        if role is KVConnectorRole.SCHEDULER:
            self._handles: dict[str, int] = {}
            self._new: list[tuple[str, int, int, str | None]] = []
            self._refusals: dict[str, str] = {}
            self._refused: list[str] = []
            self._refused_since = 0
            self._ways = {
                self.spec.charge.canonical(way): way for way in (self.options.kv, *self.options.more_kv)
            }
            if problem := self.spec.charge.memory_problem(kv_cache_config.num_blocks, (None, *self.options.more_kv)):
                raise ValueError(problem)
        else:
            self.cache: WorkerCache | None = None
            self._layers: dict[str, int] = {}
            self._failed: set[str] = set()

    # The scheduler's side.

    @property
    def requires_kv_delivery(self) -> bool:
        """False: nothing is handed on, so what a preempted request computed may be told."""
        return False

    @property
    def manager(self) -> LeanKvManager:
        return self._kv_cache_manager.coordinator.single_type_managers[0]

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """No token comes from outside. A request that is to fail is given one that never arrives: so vLLM fails it, and no other.

        vLLM calls this for a request that waits, new or preempted, before it gives it memory. `num_tokens` is then all that it has.
        """
        way, problem = None, None
        try:
            way = self._way(request)
        except ValueError as error:
            problem = str(error)
        self.manager.expect(request.request_id, request.num_tokens, way)
        if problem is None:
            return 0, False
        self._refusals[request.request_id] = problem
        return 1, True

    def _way(self, request: Any) -> str | None:
        """The way of compressing that a request names; None for the default. Raises ValueError, one sentence."""
        if request.resumable:
            raise ValueError("LeanKV does not take prompts that go on after an answer: send the whole text as a new request.")
        params = request.sampling_params
        choice = request_choice(params.extra_args if params is not None else None)
        if choice is None:
            return None
        canonical = self.spec.charge.canonical(choice)
        if canonical not in self._ways:
            known = ", ".join(self._ways.values())
            raise ValueError(
                f'The server has no way {choice}: use one of {known}, or start it with more_kv in additional_config["leankv"].'
            )
        way = self._ways[canonical]
        return None if way == self.options.kv else way

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """A request has memory: its first block is its handle."""
        request_id = request.request_id
        problem = self._refusals.pop(request_id, None)
        if problem is not None and num_external_tokens > 0:
            logger.error("LeanKV refuses request %s: %s", request_id, problem)
            self._refused.append(request_id)
            return
        if problem is not None:
            # vLLM loads nothing for requests that ask for their prompt's probabilities, so such a request cannot be failed this way.
            logger.warning("LeanKV gives request %s the default %s: %s", request_id, self.options.kv, problem)
        life = self.manager.lives[request_id]
        self._new.append((request_id, blocks.get_block_ids()[0][0], life.prompt, life.kv))

    def build_connector_meta(self, scheduler_output: Any) -> Lives:
        """What happened since the last step. A request that was given up before its first step is not told."""
        ended = [*scheduler_output.finished_req_ids, *(scheduler_output.preempted_req_ids or ())]
        lives = Lives(ended=sorted(self._handles.pop(each) for each in set(ended) if each in self._handles))
        for request_id, handle, prompt, kv in self._new:
            if request_id in scheduler_output.num_scheduled_tokens:
                self._handles[request_id] = handle
                lives.admitted.append((handle, prompt, kv))
        self._new.clear()
        lives.refused, self._refused = self._refused, []
        self._refused_since += len(lives.refused)
        pool = self._kv_cache_manager.block_pool
        lives.charged_bytes = (pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()) * self.spec.charge.unit_bytes
        return lives

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        self._refusals.pop(request.request_id, None)
        return False, None

    # The worker's side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Takes vLLM's one allocation, which all layers view, as the arena."""
        charge = self.spec.charge
        if len(kv_caches) != charge.layers:
            raise ValueError(
                f"vLLM made caches for {len(kv_caches)} layers, and the model has {charge.layers}: LeanKV needs one for each layer."
            )
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in kv_caches.values()}
        if len(storages) != 1:
            raise ValueError("internal error: vLLM's layers do not view one allocation.")
        (storage,) = storages.values()
        self._layers = {name: index for index, name in enumerate(kv_caches)}
        # Kept, so that the memory outlives the native cache.
        self._arena = storage
        slots = self._vllm_config.scheduler_config.max_num_seqs
        # vLLM aligns its memory to 64 bytes. Of what is skipped nobody is charged: one of vLLM's blocks is never given to a request.
        skipped = -storage.data_ptr() % ALIGNMENT
        arena = (storage.data_ptr() + skipped, storage.nbytes() - skipped)
        self.cache = WorkerCache(charge, self.options, slots, arena)

    def layer_index(self, name: str) -> int:
        """The number of a layer, from 0, in the order of the model."""
        return self._layers[name]

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """Applies what happened. Both model runners call this after metadata is built, before the forward pass, and without one too."""
        super().bind_connector_metadata(connector_metadata)
        lives = connector_metadata
        self._failed.update(lives.refused)
        self.cache.live(lives.ended, lives.admitted, lives.charged_bytes)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Refused requests, as loads that ended without success."""
        failed, self._failed = self._failed, set()
        return KVConnectorTransferResults(finished_recving=set(failed), failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Handles of requests that the native cache refused in the middle of their lives. vLLM fails them from their second step on."""
        return set(self.cache.broken)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing is loaded."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is loaded."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""

    # Both.

    def get_kv_connector_stats(self) -> LeanKvStats | None:
        """What this side knows. The worker looks at its cache at most once in `metrics_every` seconds."""
        if self.role is KVConnectorRole.SCHEDULER:
            refused, self._refused_since = self._refused_since, 0
            return LeanKvStats.of_scheduler(refused) if refused else None
        now = time.monotonic()
        if self.cache is None or now - self._seen < self.options.metrics_every:
            return None
        self._seen = now
        rank = self._vllm_config.parallel_config.rank
        cache = self.cache
        return LeanKvStats.of_worker(rank, cache.native.totals(), cache.arena_bytes, cache.charged_bytes)

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> LeanKvStats:
        return LeanKvStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> LeanKvPromMetrics:
        return LeanKvPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _spec(kv_cache_config: KVCacheConfig) -> LeanKvSpec:
    """The one specification of the arena. Raises ValueError where the model's layers have others."""
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    if len(specs) != 1 or not isinstance(specs[0], LeanKvSpec):
        names = ", ".join(type(spec).__name__ for spec in specs) or "none"
        raise ValueError(
            f"LeanKV serves models all of whose layers attend to all tokens, and this model's caches are {names}: use another model."
        )
    return specs[0]
