"""Fixtures, and which `leankv` the tests run over: the native module, or without it the stand-in of `fake/`."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
if os.environ.get("LEANKV_FAKE") or importlib.util.find_spec("leankv") is None:
    sys.path.insert(0, str(HERE / "fake"))
    # vLLM looks at models' classes, and runs workers, in processes of their own.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE / "fake"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

import fleet  # noqa: E402

fleet.environment()


def is_native() -> bool:
    spec = importlib.util.find_spec("leankv")
    return spec is not None and spec.origin != str(HERE / "fake" / "leankv.py")


def pytest_report_header() -> str:
    return f"leankv: {'native' if is_native() else 'the stand-in of tests/fake'}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "native: needs the native module leankv")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if is_native():
        return
    for item in items:
        if item.get_closest_marker("native"):
            item.add_marker(pytest.mark.skip(reason="the native module leankv is not installed"))


@pytest.fixture(scope="session")
def vllm():
    """vLLM, imported once, in the process that engines are forked from."""
    pytest.importorskip("vllm", reason="vLLM is not installed: run scripts/vllm/install.sh DIR and use DIR/bin/python")
    import vllm
    from vllm import LLM, SamplingParams  # noqa: F401 (their import is the slow part)
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return vllm


@pytest.fixture(scope="session")
def tiny_model(vllm, tmp_path_factory) -> pathlib.Path:
    import tiny

    # In a fork: a process that has run torch's threads must not be forked.
    return fleet.forked(tiny.make, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def smollm2() -> pathlib.Path:
    """SmolLM2-135M as scripts/vllm/smollm2.py writes it."""
    folder = os.environ.get("LEANKV_SMOLLM2")
    if not folder or not (pathlib.Path(folder) / "config.json").is_file():
        pytest.skip("LEANKV_SMOLLM2 names no model: run scripts/vllm/smollm2.py DIR and set LEANKV_SMOLLM2=DIR")
    return pathlib.Path(folder)
