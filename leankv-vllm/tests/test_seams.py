"""Signatures of everything of vLLM that the plugin calls, overrides or builds, against those that it was written for.

To record those of a new version, once the plugin runs with it: LEANKV_BLESS=1 python -m pytest tests/test_seams.py
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import re

RECORD = pathlib.Path(__file__).parent / "seams.json"


def signature(seam: str) -> str:
    """Parameters of a function, with annotations and defaults; fields of a data class."""
    module, _, path = seam.partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    if dataclasses.is_dataclass(found):
        return ", ".join(f"{field.name}: {_plain(field.type)}" for field in dataclasses.fields(found))
    found = inspect.unwrap(found)
    text = str(inspect.signature(found))
    # Defaults that are objects are printed with their addresses.
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _plain(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def test_signatures_are_those_that_were_recorded(vllm):
    from leankv_vllm.compat import SEAMS

    found = {seam: signature(seam) for seam in SEAMS}
    if os.environ.get("LEANKV_BLESS"):
        RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    recorded = json.loads(RECORD.read_text())
    moved = [
        f"{seam}\n  recorded {recorded.get(seam)}\n  found    {found.get(seam)}"
        for seam in sorted({*found, *recorded})
        if found.get(seam) != recorded.get(seam)
    ]
    assert not moved, "\n".join(
        [f"vLLM {vllm.__version__} moved what the plugin relies on. LEANKV_BLESS=1 records it.", *moved]
    )


def test_each_name_of_compat_is_listed(vllm):
    """A name that compat imports is a seam, or a base of one, or data."""
    from leankv_vllm import compat

    listed = {seam.partition(":")[2].split(".")[0] for seam in compat.SEAMS}
    data = {
        "AttentionBackendEnum",
        "AttentionType",
        "CPUAttentionBackend",
        "KVCacheBlock",
        "KVCacheConfig",
        "KVCacheLayout",
        "KVConnectorMetadata",
        "KVConnectorRole",
        "MultipleOf",
        "VllmConfig",
        "current_platform",
        "init_logger",
    }
    source = inspect.getsource(compat)
    block = source[source.index("version_problem()) is None") : source.index("SEAMS")]
    names = set()
    for line in re.findall(r"import \(?([^()]*?)(?:\)|\n    from|\n\n)", block + "\n\n", re.S):
        names |= {name.strip() for name in line.split(",") if name.strip()}
    assert names - listed - data == set()


def test_only_compat_names_vllm():
    package = pathlib.Path(__file__).parent.parent / "leankv_vllm"
    for path in package.rglob("*.py"):
        if path.name != "compat.py":
            assert not re.search(r"^\s*(from|import) vllm", path.read_text(), re.M), path
