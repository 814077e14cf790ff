"""The native module, or one sentence that says how to get it.

It is imported when an engine uses LeanKV, never by `register`: a broken installation must not keep stock engines from starting.
"""

try:
    import leankv
except ImportError as error:
    raise ImportError(
        f"leankv-vllm needs the native module leankv, which does not load ({error}): pip install its wheel, leankv-*.whl."
    ) from error

__all__ = ["leankv"]
