"""vLLM's attention for Triton from the files of its wheel, without torch and without vLLM's own start."""

import sys
import types
from enum import IntEnum

import triton
import triton.language as tl

KVQuantMode = IntEnum("KVQuantMode", "NONE FP8_PER_TENSOR INT8_PER_TOKEN_HEAD FP8_PER_TOKEN_HEAD INT4_PER_TOKEN_HEAD", start=0)
_FP8 = object()


def load(folder):
    """The modules with `unified_attention` and with the launcher of the packed 4-bit kernel; `folder` holds the wheel's `vllm/`."""
    platform = types.SimpleNamespace(fp8_dtype=lambda: _FP8, is_device_capability_family=lambda family: False)
    logger = types.SimpleNamespace(debug_once=print)
    stands_in = {
        "torch": dict(Tensor=type("Tensor", (), {}), finfo=lambda kind: types.SimpleNamespace(min=-448.0, max=448.0)),
        "vllm.envs": dict(VLLM_BATCH_INVARIANT=False),
        "vllm.logger": dict(init_logger=lambda name: logger),
        "vllm.platforms": dict(current_platform=platform),
        "vllm.triton_utils": dict(triton=triton, tl=tl),
        "vllm.v1.kv_cache_interface": dict(KVQuantMode=KVQuantMode),
    }
    for name, has in stands_in.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(has)
    sys.path.insert(0, folder)
    from vllm.v1.attention.ops import int4_per_token_head, triton_unified_attention

    # Triton asks whether there is a torch.
    del sys.modules["torch"]
    return triton_unified_attention, int4_per_token_head
