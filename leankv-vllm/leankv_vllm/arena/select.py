"""Which attention backend a layer gets, decided when the layer is built.

vLLM keeps one class path for its CPU backend in a process, and a process may hold engines with and without LeanKV. So the path that the
plugin registers is a name that this module computes: stock's class, or ours, as the engine that is being built asks.
"""

from __future__ import annotations

from typing import Any

from ..compat import AttentionBackend, CPUAttentionBackend, get_current_vllm_config_or_none
from ..config import is_wanted

BACKEND_PATH = f"{__name__}.Backend"


def __getattr__(name: str) -> Any:
    if name == "Backend":
        return backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def backend() -> type[AttentionBackend]:
    """The backend for the engine that is being built. Raises ValueError where that engine asks for half of LeanKV."""
    config = get_current_vllm_config_or_none()
    if config is None or not is_wanted(config):
        return CPUAttentionBackend
    from .backend import LeanKvBackend

    return LeanKvBackend
