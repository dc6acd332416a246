"""Learning on a GPU: model-FLOP utilisation and peak memory of the recipe's 1.5B architecture with random weights.

    python benchmarks/gpu_learning.py [--size 1.5b] [--device cuda] [--json FILE]

bfloat16 compute over float32 master weights, activation checkpointing, micro-batches of 32K tokens made of sequences
of 8K, 16K and 24K. Utilisation counts 6 x parameters x tokens plus the causal attention products, without what
checkpointing recomputes, against a dense bfloat16 product of 8192 x 8192 x 8192 measured in the same run. The head is
measured chunked, as it trains, with the logits of a whole micro-batch at once, and in float32. A part of gpu.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gpu_device import (
    Report,
    built,
    dense_rate,
    empty_cache,
    main,
    multiplied,
    peak_gib,
    recipe,
    seconds,
    workload,
)
from policy_learner import make_learner
from records import middle

from deepscaler.config.models import Recipe
from deepscaler.training.replica import policy_computer
from deepscaler.types import TrainSample

ROUNDS = 2


def make_samples(lengths: list[int], prompt: int) -> list[TrainSample]:
    rng, total = np.random.default_rng(1), sum(lengths)
    return [
        TrainSample(
            rng.integers(2, 1000, prompt).astype(np.int32),
            rng.integers(2, 1000, n - prompt).astype(np.int32),
            np.full(n - prompt, -12.0, np.float32),
            float(rng.normal()),
            np.full(n - prompt, 1 / total, np.float32),
            0,
        )
        for n in lengths
    ]


def flop(model: Any, lengths: list[int]) -> float:
    """Of one forward and backward."""
    config = model.config
    pairs = sum(n**2 / 2 for n in lengths)
    width = config.num_attention_heads * model.model.layers[0].self_attn.head_dim
    attention = 3 * 2 * 2 * pairs * width * config.num_hidden_layers
    return 6 * sum(p.numel() for p in multiplied(model)) * sum(lengths) + attention


def accumulate(model: Any, lengths: list[int], settings: Recipe, prompt: int, rate: float) -> dict[str, Any]:
    computer, device = policy_computer(model, settings), next(model.parameters()).device
    samples, record = make_samples(lengths, prompt), {}

    def once() -> None:
        computer.accumulate(samples, None, None)

    try:
        once()
        with peak_gib(device, record):
            taken = [seconds(once, device, warm_up=False) for _ in range(ROUNDS)]
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    finally:
        model.zero_grad(set_to_none=True)
        empty_cache(device)
    utilisation = middle([flop(model, lengths) / s / rate for s in taken])
    return {"utilisation": utilisation, "tokens_per_s": sum(lengths) / min(taken), **record}


def update(model: Any, lengths: list[int], settings: Recipe, prompt: int) -> dict[str, float]:
    """A whole update, and what clipping and AdamW take of it."""
    computer, device = policy_computer(model, settings), next(model.parameters()).device
    learner = make_learner(model, settings, computer)
    samples = make_samples(lengths, prompt)
    whole = seconds(lambda: learner.update([samples]), device)
    gradients = seconds(lambda: computer.accumulate(samples, None, None), device, warm_up=False)
    return {"update_s": whole, "clip_and_adamw_s": whole - gradients}


def learning(size: str, device: torch.device, report: Report) -> None:
    work = workload(size)
    rate = dense_rate(device, work.product)
    report("dense_tflops", rate / 1e12)
    model = built(size, device, torch.float32)
    heads = {
        "chunked head": recipe(size),
        "whole head": recipe(size, chunk=work.micro_batch),
        "chunked float32 head": recipe(size, float32_head=True),
    }
    names = list(work.sequences)
    # Every length as it trains first: what a time limit cuts off are the variants.
    for head, settings in heads.items():
        for name in names if head != "chunked float32 head" else names[:1]:
            found = accumulate(model, work.sequences[name], settings, work.prompt, rate)
            report(f"{name}, {head}", found)
    report("update", update(model, work.sequences[names[0]], recipe(size), work.prompt))


if __name__ == "__main__":
    main(__doc__ or "", {"learning": learning})
