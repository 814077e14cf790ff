"""What the cache holds, through the connector's statistics into vLLM's log line and its Prometheus endpoint.

Workers tell what they hold (true bytes, by tier) and what that is charged, the scheduler which requests it refused. vLLM joins statistics
of ranks, and those of one interval of its log, with the same call, so each is kept under its rank and the newest one wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from .compat import KVConnectorPromMetrics, KVConnectorStats, VllmConfig, create_metric_per_engine

TOTALS = ("bytes", "fp16_bytes", "high", "low", "pruned", "requests")
"""Keys of `leankv.Cache.totals()` that are told."""

GAUGES = {
    "bytes": "True bytes of keys and values of all requests, on all ranks: codes, scales, positions and waste of pages.",
    "fp16_bytes": "Bytes that the same keys and values would take in FP16.",
    "high": "Keys and values in the tier of more bits, over all layers and heads.",
    "low": "Keys and values in the tier of fewer bits, over all layers and heads.",
    "pruned": "Keys and values that were dropped, over all layers and heads.",
    "requests": "Requests that the cache holds, on the rank that holds most.",
    "charged_bytes": "Bytes that the scheduler charged for the same requests, on all ranks: an upper bound of the true bytes.",
    "slack_bytes": "Charged bytes less true bytes.",
    "arena_bytes": "Bytes of the arena, on all ranks.",
}

COUNTERS = {"refused": "Requests that failed because they named a way of compressing that this server does not have."}


@dataclass
class LeanKvStats(KVConnectorStats):
    """`data["ranks"][rank]`: totals of a worker, with its arena_bytes and charged_bytes. `data["refused"]`: requests since the last time."""

    @classmethod
    def of_worker(cls, rank: int, totals: Mapping[str, int], arena_bytes: int, charged_bytes: int) -> LeanKvStats:
        told = {key: totals[key] for key in TOTALS}
        return cls({"ranks": {str(rank): {**told, "arena_bytes": arena_bytes, "charged_bytes": charged_bytes}}})

    @classmethod
    def of_scheduler(cls, refused: int) -> LeanKvStats:
        return cls({"refused": refused})

    def reset(self) -> None:
        self.data = {}

    def is_empty(self) -> bool:
        return not self.data

    def aggregate(self, other: KVConnectorStats) -> LeanKvStats:
        """Takes over what `other`, which is newer or of other ranks, tells. Requests that were refused are added up."""
        if ranks := other.data.get("ranks"):
            self.data["ranks"] = {**self.data.get("ranks", {}), **ranks}
        if refused := other.data.get("refused"):
            self.data["refused"] = self.data.get("refused", 0) + refused
        return self

    def reduce(self) -> dict[str, int | float]:
        """One number for each of `GAUGES` and `COUNTERS` that is known."""
        out: dict[str, int | float] = {}
        if ranks := list(self.data.get("ranks", {}).values()):
            for key in (*TOTALS, "arena_bytes", "charged_bytes"):
                join = max if key == "requests" else sum
                out[key] = join(rank[key] for rank in ranks)
            out["slack_bytes"] = out["charged_bytes"] - out["bytes"]
        if "refused" in self.data:
            out["refused"] = self.data["refused"]
        return out


class LeanKvPromMetrics(KVConnectorPromMetrics):
    """Gauges `vllm:leankv_*` and the counter `vllm:leankv_refused`, one of each an engine."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        metric_types: dict[type[Gauge] | type[Counter] | type[Histogram], type],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._gauges = {
            key: create_metric_per_engine(
                self._gauge_cls(
                    name=f"vllm:leankv_{key}",
                    documentation=text,
                    multiprocess_mode="mostrecent",
                    labelnames=labelnames,
                ),
                per_engine_labelvalues,
            )
            for key, text in GAUGES.items()
        }
        self._counters = {
            key: create_metric_per_engine(
                self._counter_cls(name=f"vllm:leankv_{key}", documentation=text, labelnames=labelnames),
                per_engine_labelvalues,
            )
            for key, text in COUNTERS.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for key, value in LeanKvStats(dict(transfer_stats_data)).reduce().items():
            if key in self._gauges:
                self._gauges[key][engine_idx].set(value)
            elif value:
                self._counters[key][engine_idx].inc(value)
