"""A tiny Llama model and its GGUF file, written by the package gguf as llama.cpp's converter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADS, KV_HEADS = 4, 2
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def vocabulary() -> list[str]:
    """Three control tokens, then the 256 bytes as GPT-2 writes them, then the two merges of `_write_tokenizer`."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    text = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [*SPECIAL, *(text[b] for b in range(256)), "he", "ll"]


def tiny_llama(seed: int = 0, max_tokens: int = 128) -> Any:
    """Two layers of width 64; the sizes are multiples of 32, the width of a quantised block."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.25)
    return model


def write_gguf(path: Path, model: Any, *, architecture: str = "llama", kind: str = "Q8_0", leave_out: str = "") -> Any:
    """Write the file; returns the model with the weights that dequantising gives.

    kind: of all matrices. leave_out: name of a tensor that is not written.
    """
    kept = getattr(gguf.GGMLQuantizationType, kind)
    writer = gguf.GGUFWriter(path, architecture)
    config = model.config
    writer.add_name("Tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _write_tokenizer(writer)
    weights = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = _interleaved(name, weight)
        data = gguf.quants.quantize(values, kept) if weight.dim() > 1 else values
        if _name(name) != leave_out:
            raw = kept if weight.dim() > 1 else None
            writer.add_tensor(_name(name), data, raw_dtype=raw)
        exact = gguf.quants.dequantize(data, kept) if weight.dim() > 1 else data
        weights[name] = torch.from_numpy(np.ascontiguousarray(_joined(name, exact)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(weights, strict=False)
    return model


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def _name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _heads_of(name: str) -> int | None:
    """llama.cpp rotates neighbouring pairs, transformers the halves of a head: rows of query and key change places."""
    return HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None


def _interleaved(name: str, weight: Tensor) -> np.ndarray:
    heads = _heads_of(name)
    values = weight.numpy()
    if heads is None:
        return values
    return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _joined(name: str, values: np.ndarray) -> np.ndarray:
    heads = _heads_of(name)
    return (
        values if heads is None else values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    )
