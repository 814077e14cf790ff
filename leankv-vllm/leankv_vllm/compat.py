"""Everything of vLLM that the plugin touches, by name. No other module imports vLLM.

`SEAMS` lists what the plugin calls or overrides; a test compares their signatures with the recorded ones, so that a new version of vLLM that
moved something is noticed before it runs.
"""

from __future__ import annotations

import vllm

SUPPORTED = (0, 32)
"""The one minor version of vLLM that the plugin was tested with."""


def version_problem(version: str | None = None) -> str | None:
    """One sentence where the plugin does not work with this version of vLLM, else None."""
    version = vllm.__version__ if version is None else version
    if tuple(version.split(".")[:2]) == tuple(str(part) for part in SUPPORTED):
        return None
    wanted = ".".join(map(str, SUPPORTED))
    return f"leankv-vllm works with vLLM {wanted}, and this is vLLM {version}: install vLLM {wanted}.0."


if (_problem := version_problem()) is None:
    from vllm.config import VllmConfig, get_current_vllm_config, get_current_vllm_config_or_none
    from vllm.distributed.kv_transfer import get_kv_transfer_group
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.distributed.kv_transfer.kv_connector.v1.base import (
        KVConnectorBase_V1,
        KVConnectorMetadata,
        KVConnectorRole,
        KVConnectorTransferResults,
    )
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
    from vllm.logger import init_logger
    from vllm.platforms import current_platform
    from vllm.v1.attention.backend import (
        AttentionBackend,
        AttentionImpl,
        AttentionMetadataBuilder,
        AttentionType,
        CommonAttentionMetadata,
        MultipleOf,
    )
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.core.single_type_kv_cache_manager import SingleTypeKVCacheManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheLayout
    from vllm.v1.kv_cache_spec_registry import register_kv_cache_spec
    from vllm.v1.metrics.utils import create_metric_per_engine

SEAMS = (
    "vllm.config:get_current_vllm_config",
    "vllm.config:get_current_vllm_config_or_none",
    "vllm.distributed.kv_transfer:get_kv_transfer_group",
    "vllm.distributed.kv_transfer.kv_connector.factory:KVConnectorFactory.register_connector",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.__init__",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.bind_connector_metadata",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.bind_kv_cache_manager",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.build_connector_meta",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.build_kv_connector_stats",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.build_prom_metrics",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.get_block_ids_with_load_errors",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.get_kv_connector_stats",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.get_num_new_matched_tokens",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.get_transfer_results",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.register_kv_caches",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.request_finished",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.save_kv_layer",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.start_load_kv",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.update_state_after_alloc",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.wait_for_layer_load",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorBase_V1.wait_for_save",
    "vllm.distributed.kv_transfer.kv_connector.v1.base:KVConnectorTransferResults",
    "vllm.distributed.kv_transfer.kv_connector.v1.metrics:KVConnectorPromMetrics.__init__",
    "vllm.distributed.kv_transfer.kv_connector.v1.metrics:KVConnectorPromMetrics.observe",
    "vllm.distributed.kv_transfer.kv_connector.v1.metrics:KVConnectorStats.aggregate",
    "vllm.distributed.kv_transfer.kv_connector.v1.metrics:KVConnectorStats.reduce",
    "vllm.v1.attention.backend:AttentionBackend.customize_spec",
    "vllm.v1.attention.backend:AttentionBackend.get_supported_kernel_block_sizes",
    "vllm.v1.attention.backend:AttentionImpl.__init__",
    "vllm.v1.attention.backend:AttentionImpl.forward",
    "vllm.v1.attention.backend:AttentionMetadataBuilder.__init__",
    "vllm.v1.attention.backend:AttentionMetadataBuilder.build",
    "vllm.v1.attention.backend:CommonAttentionMetadata",
    "vllm.v1.attention.backends.registry:register_backend",
    "vllm.v1.core.block_pool:BlockPool.free_blocks",
    "vllm.v1.core.block_pool:BlockPool.get_new_blocks",
    "vllm.v1.core.block_pool:BlockPool.get_num_free_blocks",
    "vllm.v1.core.kv_cache_manager:KVCacheBlocks.get_block_ids",
    "vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots",
    "vllm.v1.core.sched.output:SchedulerOutput",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.__init__",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.allocate_external_computed_blocks",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.allocate_new_blocks",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.cache_blocks",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.find_longest_cache_hit",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.get_num_blocks_to_allocate",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.pop_blocks_for_free",
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.remove_skipped_blocks",
    "vllm.v1.kv_cache_interface:FullAttentionSpec",
    "vllm.v1.kv_cache_interface:FullAttentionSpec.max_memory_usage_bytes",
    "vllm.v1.kv_cache_interface:FullAttentionSpec.merge",
    "vllm.v1.kv_cache_spec_registry:register_kv_cache_spec",
    "vllm.v1.metrics.utils:create_metric_per_engine",
)
"""Functions and classes that the plugin calls, overrides or builds, as `module:name`."""


def require_version() -> None:
    """Raises one sentence where this version of vLLM is not the one that the plugin works with."""
    if _problem is not None:
        raise ImportError(_problem)


def register_connector(name: str, module: str) -> None:
    """Makes a connector known by its name, once a process."""
    try:
        KVConnectorFactory.register_connector(name, module, name)
    except ValueError:
        # It is known already: `register` ran before in this process.
        pass
