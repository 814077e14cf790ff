"""What llama.cpp's quantised KV caches cost in quality: perplexity, KL divergence and top-1 agreement against its f16 cache.

    python3 -m venv V && nice V/bin/pip install llama-cpp-python==0.3.36 numpy gguf==0.19.0     # compiles llama.cpp: needs g++, many minutes
    V/bin/python scripts/peers/llama_cpp_quality.py MODEL.gguf --text data/emma.txt --ctx 2048 --chunks 2 --out OUT.json

The text is tokenised once, as a whole and without parsing special tokens, and cut into chunks of `ctx` tokens from its beginning. Each chunk starts with an empty cache; the
tokens of its second half, all `ctx / 2` of them, are scored, each by the distribution at the position before it. Flash attention is on; prompts go through in micro-batches of 512, whose
keys and values are quantised before they are attended to, like those of decode steps. Logarithms are natural; KL is KL(f16 || quantised), the mean over scored positions.
"""

import argparse
import ctypes
import json
import os
import sys

import llama_cpp as L
import numpy as np

from gguf import GGUFReader
from peer_tokenizer import sha256

TYPES = {"f16": L.GGML_TYPE_F16, "q8_0": L.GGML_TYPE_Q8_0, "q4_0": L.GGML_TYPE_Q4_0}
ERROR = 4  # of ggml's log levels
CONFIGS = "f16/f16,q8_0/q8_0,q8_0/q4_0,q4_0/q8_0,q4_0/q4_0"


@L.llama_log_callback
def log(level, text, _):
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def tokenize(model, text, add_bos):
    """Token ids by llama.cpp itself."""
    data = text.encode()
    ids = (L.llama_token * (len(data) + 1))()
    n = L.llama_tokenize(L.llama_model_get_vocab(model), data, len(data), ids, len(ids), add_bos, False)
    assert n >= 0
    return ids[:n]


class Context:
    """A context with one pair of cache types."""

    def __init__(self, model, key, value, ctx, threads):
        params = L.llama_context_default_params()
        params.n_ctx = params.n_batch = ctx
        params.n_ubatch = min(512, ctx)
        params.n_threads = params.n_threads_batch = threads
        params.type_k, params.type_v = TYPES[key], TYPES[value]
        params.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.ctx = L.llama_init_from_model(model, params)
        assert self.ctx, f"llama.cpp refuses {key}/{value}"
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))

    def logprobs(self, ids, first):
        """Log-probabilities after an empty cache and `ids[:i + 1]`, for each `i` from `first` on."""
        L.llama_memory_clear(L.llama_get_memory(self.ctx), True)
        batch = L.llama_batch_init(len(ids), 0, 1)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
            batch.logits[i] = i >= first
        batch.n_tokens = len(ids)
        status = L.llama_decode(self.ctx, batch)
        L.llama_batch_free(batch)
        assert status == 0, f"llama_decode: {status}"
        count = len(ids) - first
        logits = np.ctypeslib.as_array(L.llama_get_logits(self.ctx), (count, self.vocab)).copy()
        logits -= logits.max(-1, keepdims=True)
        for row in logits:  # row by row: a copy in f64 of all of them is large
            row -= np.log(np.exp(row, dtype=np.float64).sum())
        return logits


def summary(row):
    """The figures of a row over all scored positions."""
    nll = float(np.mean(row["nll"]))
    return {
        "keys": row["keys"],
        "values": row["values"],
        "nll": round(nll, 6),
        "perplexity": round(float(np.exp(nll)), 4),
        "kl": round(float(np.mean(row["kl"])), 6),
        "kl_p99": round(float(np.quantile(row["kl"], 0.99)), 6),
        "top1": round(float(np.mean(row["top1"])), 6),
    }


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("--text", required=True)
    args.add_argument("--ctx", type=int, required=True)
    args.add_argument("--chunks", type=int, required=True)
    args.add_argument("--configs", default=CONFIGS, help="keys/values, the first is what the others are compared with")
    args.add_argument("--threads", type=int, default=1, help="more are slower on a busy machine")
    args.add_argument("--peer", default=f"llama-cpp-python {L.__version__}", help="what the results say they are of")
    args.add_argument("--out", required=True)
    args = args.parse_args()
    half, configs = args.ctx // 2, [tuple(c.split("/")) for c in args.configs.split(",")]

    L.llama_log_set(log, ctypes.c_void_p(0))
    L.llama_backend_init()
    params = L.llama_model_default_params()
    params.n_gpu_layers = 0
    model = L.llama_model_load_from_file(args.model.encode(), params)
    assert model, f"{args.model} cannot be loaded"
    bos = GGUFReader(args.model).fields.get("tokenizer.ggml.add_bos_token")
    with open(args.text, encoding="utf-8") as file:
        ids = tokenize(model, file.read(), bool(bos.contents()) if bos else False)
    assert len(ids) >= args.ctx * args.chunks, f"the text has {len(ids)} tokens"

    head = {
        "peer": f"{args.peer}, flash attention",
        "model_sha256": sha256(args.model),
        "text": args.text,
        "text_sha256": sha256(args.text),
        "ctx": args.ctx,
        "first_ids": ids[:16],
    }
    rows = [{"keys": k, "values": v, "nll": [], "kl": [], "top1": []} for k, v in configs]
    for chunk in range(args.chunks):
        part = ids[chunk * args.ctx : (chunk + 1) * args.ctx]
        targets = np.array(part[half:])
        base = base_p = None
        for row in rows:
            context = Context(model, row["keys"], row["values"], args.ctx, args.threads)
            # The last token of the chunk only ends it.
            logprobs = context.logprobs(part[:-1], half - 1)
            L.llama_free(context.ctx)
            if base is None:
                base, base_p = logprobs, np.exp(logprobs)
            row["nll"] += (-logprobs[np.arange(half), targets].astype(np.float64)).tolist()
            row["kl"] += [float((p * (a - b)).sum(dtype=np.float64)) for p, a, b in zip(base_p, base, logprobs)]
            row["top1"] += (logprobs.argmax(-1) == base.argmax(-1)).tolist()
            print(f"chunk {chunk + 1}: {row['keys']}/{row['values']} perplexity {np.exp(np.mean(row['nll'])):.4f}", flush=True)
        # After each chunk: an interrupted run leaves the results of what it did.
        done = {"chunks": chunk + 1, "scored": half * (chunk + 1), "rows": [summary(row) for row in rows]}
        with open(args.out + ".new", "w", encoding="utf-8") as file:
            json.dump(head | done, file, indent=1)
            file.write("\n")
        os.replace(args.out + ".new", args.out)
    for row in rows:
        print("{keys}/{values}: perplexity {perplexity}, KL {kl}, top-1 {top1:.2%}".format(**summary(row)))


main()
