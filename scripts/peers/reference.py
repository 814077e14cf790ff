"""Reference values of a model: what transformers computes in f32 from a GGUF's dequantised weights, with a full-precision cache.

    python -m venv V && V/bin/pip install torch==2.15.0 transformers==5.24.0 gguf==0.19.0 accelerate sentencepiece protobuf
    V/bin/python scripts/peers/reference.py MODEL.gguf --text data/emma.txt --tokens 384 --out leankv-model/tests/data/NAME.json

The text's first `tokens` ids go through the model at once. For each position the file has the negative log-likelihood of the token that follows, and the 16
most likely ids with their natural log-probabilities, most likely first.
"""

import argparse
import json
import os

import torch
import transformers
from transformers import AutoModelForCausalLM

from peer_tokenizer import PeerTokenizer, sha256

TOP = 16


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("--text", required=True)
    args.add_argument("--tokens", type=int, default=384)
    args.add_argument("--out", required=True)
    args = args.parse_args()

    with open(args.text, encoding="utf-8") as file:
        ids = PeerTokenizer(args.model).encode(file.read(16 * args.tokens))[: args.tokens]
    assert len(ids) == args.tokens, "the text is too short"
    folder, name = os.path.split(args.model)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    logprobs = logits.log_softmax(-1)
    nll = -logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    top = logprobs.topk(TOP)
    print(f"{name}: perplexity {nll.mean().exp():.4f} over {len(nll)} tokens")
    rounded = lambda row: [round(x, 5) for x in row]
    result = {
        "sha256": sha256(args.model),
        "text": args.text,
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, f32, eager attention",
        "ids": ids,
        "nll": rounded(nll.tolist()),
        "top_ids": top.indices.tolist(),
        "top_logprobs": [rounded(row) for row in top.values.tolist()],
    }
    with open(args.out, "w", encoding="utf-8") as file:
        # One line a field.
        fields = (f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in result.items())
        file.write("{" + ",\n".join(fields) + "}\n")


main()
