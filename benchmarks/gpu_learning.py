"""Learning on a GPU: model-FLOP utilisation and peak memory of the recipe's 1.5B architecture with random weights.

    python benchmarks/gpu_learning.py [--json FILE] [--rounds 2]

bfloat16 compute over float32 master weights, activation checkpointing, micro-batches of 32K tokens made of sequences
of 8K, 16K and 24K. Utilisation counts 6 x parameters x tokens plus the causal attention products, without what
checkpointing recomputes, against a dense bfloat16 product of 8192 x 8192 x 8192 measured in the same run. The head is
measured chunked, as it trains, and with the logits of a whole micro-batch at once. About 3 minutes on one H100.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import machine, middle
from transformers import Qwen2Config, Qwen2ForCausalLM

from deepscaler.attention import NAME
from deepscaler.config.models import (
    DataSection,
    ModelSection,
    Recipe,
    RolloutSection,
    StageSection,
    TrainingSection,
)
from deepscaler.training.learner import LocalLearner
from deepscaler.types import TrainSample

DEVICE = "cuda"
MICRO_BATCH = 32 * 1024
PROMPT_TOKENS = 512
SEQUENCES = {"8K": [8192] * 4, "16K": [16384] * 2, "24K": [24576, 8192]}
ARCHITECTURE = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131_072,
}


def recipe(chunk: int | None) -> Recipe:
    return Recipe(
        name="benchmark",
        num_steps=1,
        model=ModelSection(path="unused", dtype="bfloat16", activation_checkpointing=True),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=8, group_size=8),
        stages=(StageSection(name="s", max_completion_tokens=8),),
        training=TrainingSection(tokens_per_micro_batch=MICRO_BATCH, logprob_chunk_tokens=chunk),
    )


def new_model() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(**ARCHITECTURE, tie_word_embeddings=False, use_sliding_window=False)  # type: ignore[arg-type]
    with torch.device(DEVICE):
        model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation(NAME)
    return model


def make_samples(lengths: list[int]) -> list[TrainSample]:
    rng, total = np.random.default_rng(1), sum(lengths)
    return [
        TrainSample(
            rng.integers(2, 1000, PROMPT_TOKENS).astype(np.int32),
            rng.integers(2, 1000, n - PROMPT_TOKENS).astype(np.int32),
            np.full(n - PROMPT_TOKENS, -12.0, np.float32),
            float(rng.normal()),
            np.full(n - PROMPT_TOKENS, 1 / total, np.float32),
            0,
        )
        for n in lengths
    ]


def seconds(action: Any) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def dense_rate() -> float:
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    seconds(lambda: [a @ a for _ in range(5)])
    return 20 * 2 * 8192**3 / seconds(lambda: [a @ a for _ in range(20)])


def work(model: Any, lengths: list[int]) -> float:
    """The embedding is read, not multiplied: it does not count."""
    parameters = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    pairs = sum(n**2 / 2 for n in lengths)
    attention = 3 * 2 * 2 * pairs * ARCHITECTURE["hidden_size"] * ARCHITECTURE["num_hidden_layers"]
    return 6 * parameters * sum(lengths) + attention


def measure(model: Any, lengths: list[int], chunk: int | None, rate: float, rounds: int) -> dict[str, Any]:
    learner = LocalLearner(model, recipe(chunk))
    samples = make_samples(lengths)
    try:
        seconds(lambda: learner.computer.accumulate(samples, None, None))
        torch.cuda.reset_peak_memory_stats()
        taken = [seconds(lambda: learner.computer.accumulate(samples, None, None)) for _ in range(rounds)]
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return {
        "utilisation": middle([work(model, lengths) / s / rate for s in taken]),
        "tokens_per_s": sum(lengths) / min(taken),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def optimizer_seconds(model: Any, lengths: list[int]) -> float:
    """AdamW and clipping of one whole update, forward and backward apart."""
    learner = LocalLearner(model, recipe(None))
    samples = make_samples(lengths)
    learner.update([samples])
    whole = seconds(lambda: learner.update([samples]))
    return whole - seconds(lambda: learner.computer.accumulate(samples, None, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device; benchmarks/learning.py is the one for CPU")
    model, rate, results = new_model(), dense_rate(), {}
    for name, lengths in SEQUENCES.items():
        results[name] = {
            "chunked head": measure(model, lengths, None, rate, arguments.rounds),
            "whole head": measure(model, lengths, MICRO_BATCH, rate, arguments.rounds),
        }
    record = {
        "machine": machine() | {"gpu": torch.cuda.get_device_name()},
        "dense_tflops": rate / 1e12,
        "results": results,
        "optimizer_s": optimizer_seconds(model, SEQUENCES["8K"]),
    }
    print(json.dumps(record, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
