"""A tiny Llama with random weights, on which attention matters: 4 layers, 6 query and 2 KV heads of 64.

vLLM's own dummy weights are so small that every head attends alike, and tests would not notice requests that were mixed up.
"""

from __future__ import annotations

import json
import pathlib

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def make(out: pathlib.Path, **changes: object) -> pathlib.Path:
    """Writes the model into the folder `out`, which is made, and gives `out` back. `changes` are of its configuration."""
    import torch
    from safetensors.torch import save_file

    config = {**CONFIG, **changes}
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = (config[f"num_{name}_heads"] * config["head_dim"] for name in ("attention", "key_value"))
    generator = torch.Generator().manual_seed(7)

    def weight(rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * gain / columns**0.5).to(torch.bfloat16)

    ones = torch.ones(hidden, dtype=torch.bfloat16)
    tensors = {
        "model.embed_tokens.weight": weight(vocab, hidden, hidden**0.5),
        "model.norm.weight": ones.clone(),
        "lm_head.weight": weight(vocab, hidden),
    }
    for i in range(config["num_hidden_layers"]):
        name = f"model.layers.{i}"
        tensors |= {
            f"{name}.input_layernorm.weight": ones.clone(),
            f"{name}.post_attention_layernorm.weight": ones.clone(),
            # Scores of some units apart: heads that choose.
            f"{name}.self_attn.q_proj.weight": weight(q, hidden, 2.0),
            f"{name}.self_attn.k_proj.weight": weight(kv, hidden, 2.0),
            f"{name}.self_attn.v_proj.weight": weight(kv, hidden, 2.0),
            f"{name}.self_attn.o_proj.weight": weight(hidden, q, 2.0),
            f"{name}.mlp.gate_proj.weight": weight(inner, hidden),
            f"{name}.mlp.up_proj.weight": weight(inner, hidden),
            f"{name}.mlp.down_proj.weight": weight(hidden, inner),
        }
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=1))
    return out
