"""Learning against the machine: the share of the attainable matmul rate, where the time goes, and how cost scales.

    python benchmarks/learning.py [--sizes tiny small] [--rounds 3] [--tokens 16384] [--write]

One core, float32, CPU seconds of the process. Work counts as 6 x parameters x tokens plus the causal attention
products of trained samples; the attainable rate is that of a 2048 x 2048 x 2048 product by the faster of torch's
libraries, measured around every update. Prints JSON; --write puts the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from model_sizes import SIZES, build
from policy_learner import make_learner
from records import machine, middle, with_range, write_table

from deepscaler import cpu
from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.cpu.matmul import matmul
from deepscaler.modeling.attention import NAME
from deepscaler.training import gradients, logprobs
from deepscaler.training.learner import PolicyLearner
from deepscaler.types import TrainSample

PROMPT_TOKENS = 32
SEQUENCE_TOKENS = {"tiny": 160, "small": 256}
SCALES = {"tiny": (1024, 4096, 16384, 65536), "small": (1024, 8192, 65536)}
PHASES = ("pack", "layers forward", "head forward", "head backward", "layers backward", "clip", "AdamW", "digest")


def recipe() -> Recipe:
    return Recipe(
        name="benchmark",
        num_steps=1,
        model=ModelSection(path="unused"),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=8, group_size=8),
        stages=(StageSection(name="s", max_completion_tokens=8),),
    )


def make_samples(size: str, tokens: int, *, silent_frac: float = 0.0) -> list[TrainSample]:
    """Samples of equal length that fill `tokens`; the first `silent_frac` of them have advantage 0."""
    length, vocabulary = SEQUENCE_TOKENS[size], SIZES[size]["vocab_size"]
    count, rng = tokens // length, np.random.default_rng(1)
    completion = length - PROMPT_TOKENS
    return [
        TrainSample(
            prompt_ids=rng.integers(2, vocabulary, PROMPT_TOKENS).astype(np.int32),
            completion_ids=rng.integers(2, vocabulary, completion).astype(np.int32),
            rollout_logprobs=np.full(completion, -np.log(vocabulary), np.float32),
            advantage=0.0 if i < silent_frac * count else float(rng.normal()),
            token_weights=np.full(completion, 1 / (count * completion), np.float32),
            policy_version=0,
        )
        for i in range(count)
    ]


def work(model: Any, samples: list[TrainSample]) -> float:
    """Floating-point operations of one update."""
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    pairs = sum(s.num_tokens**2 / 2 for s in samples)
    width = config.num_attention_heads * model.model.layers[0].self_attn.head_dim
    attention = 3 * 2 * 2 * pairs * width * config.num_hidden_layers
    return 6 * parameters * sum(s.num_tokens for s in samples) + attention


def rate_of(multiply: Callable[[torch.Tensor, torch.Tensor], object], repeats: int = 8) -> float:
    """FLOP per CPU second of a large product."""
    a = torch.ones(2048, 2048)
    multiply(a, a)
    start = time.process_time()
    for _ in range(repeats):
        multiply(a, a)
    return repeats * 2 * 2048**3 / (time.process_time() - start)


def cpu_seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


@contextmanager
def timed(owner: Any, name: str, phase: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the CPU seconds spent inside `owner.name` to `seconds[phase]`."""
    inner = getattr(owner, name)

    def outer(*arguments: Any, **keywords: Any) -> Any:
        start = time.process_time()
        try:
            return inner(*arguments, **keywords)
        finally:
            seconds[phase] += time.process_time() - start

    static = isinstance(owner.__dict__.get(name), staticmethod) if isinstance(owner, type) else False
    setattr(owner, name, staticmethod(outer) if static else outer)
    try:
        yield
    finally:
        setattr(owner, name, staticmethod(inner) if static else inner)


def breakdown(learner: PolicyLearner, samples: list[TrainSample]) -> dict[str, float]:
    """CPU seconds of one update by phase; `rest` is what no phase accounts for."""
    seconds: dict[str, float] = {name: 0.0 for name in (*PHASES, "backward")}  # noqa: C420  (the type of its keys)
    with (
        timed(gradients, "pack", "pack", seconds),
        timed(gradients, "forward_hidden", "layers forward", seconds),
        timed(logprobs._TokenLogprobs, "apply", "head forward", seconds),
        timed(logprobs._TokenLogprobs, "backward", "head backward", seconds),
        timed(torch.Tensor, "backward", "backward", seconds),
        timed(torch.nn.utils, "clip_grad_norm_", "clip", seconds),
        timed(torch.optim.AdamW, "step", "AdamW", seconds),
    ):
        total = cpu_seconds(lambda: learner.update([samples]))
    seconds["layers backward"] = seconds.pop("backward") - seconds["head backward"]
    seconds["rest"] = total - sum(seconds.values())
    seconds["digest"] = cpu_seconds(lambda: learner.publish().digest("float32"))
    return seconds


def measure(size: str, tokens: int, rounds: int) -> dict[str, Any]:
    model = build(size, NAME)
    learner = make_learner(model, recipe())
    samples, half = make_samples(size, tokens), make_samples(size, tokens, silent_frac=0.5)
    flops = work(model, samples)
    learner.update([samples[:8]])
    shares, silent, phases = [], [], []
    rate = 0.0
    for _ in range(rounds):
        before = rate_of(matmul)
        seconds = cpu_seconds(lambda: learner.update([samples]))
        rate = (before + rate_of(matmul)) / 2
        shares.append(flops / seconds / rate)
        silent.append(cpu_seconds(lambda: learner.update([half])) / seconds)
    phases = breakdown(learner, samples)
    stats = learner.update([samples])
    scale = {}
    for count in SCALES[size]:
        part = make_samples(size, count)
        repeats = max(1, 8192 // count)
        taken = [cpu_seconds(lambda p=part: learner.update([p])) for _ in range(repeats)]
        scale[str(count)] = 1e6 * min(taken) / sum(s.num_tokens for s in part)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": sum(s.num_tokens for s in samples),
        "share_of_attainable": middle(shares),
        "attainable_gflops": rate / 1e9,
        "torch_gflops": rate_of(torch.mm) / 1e9,
        "seconds": phases,
        "update_with_half_the_advantages_zero": middle(silent),
        "padding_tokens": stats.metrics["num_trained_tokens"] - sum(s.num_tokens for s in samples),
        "microseconds_per_token": scale,
    }


def write(results: dict[str, Any], info: dict[str, Any]) -> None:
    columns = (
        "size",
        "tokens",
        "share of the attainable rate",
        "half the advantages zero",
        "GFLOP/s",
        "torch.mm",
        "µs a token at",
    )
    rows, phases = [], []
    for size, r in results.items():
        scale = ", ".join(f"{int(n) // 1024}K {v:.0f}" for n, v in r["microseconds_per_token"].items())
        share, silent = with_range(r["share_of_attainable"]), with_range(r["update_with_half_the_advantages_zero"])
        rates = (f"{r['attainable_gflops']:.0f}", f"{r['torch_gflops']:.0f}")
        rows.append((size, f"{r['tokens']:,}", share, silent, *rates, scale))
        total = sum(r["seconds"].values())
        phases.append(f"{size}: " + ", ".join(f"{name} {100 * s / total:.1f}%" for name, s in r["seconds"].items()))
    note = "Where an update's time goes. " + "; ".join(phases) + "."
    write_table("learning.py", columns, rows, note, info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SEQUENCE_TOKENS), default=list(SEQUENCE_TOKENS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    cpu.prepare(threads=1)
    results = {size: measure(size, arguments.tokens, arguments.rounds) for size in arguments.sizes}
    info = machine()
    print(json.dumps({"machine": info, "results": results}, indent=1))
    if arguments.write:
        write(results, info)


if __name__ == "__main__":
    main()
