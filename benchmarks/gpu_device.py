"""What the parts of benchmarks/gpu.py share: workloads, models made on the device, clocks, memory, a command line."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_sizes import SIZES, build
from records import machine

from deepscaler import cpu
from deepscaler.config.models import Recipe
from deepscaler.config.sections.algorithm import AlgorithmSection, KlSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.lifetime import die_with_parent
from deepscaler.modeling.attention import NAME
from deepscaler.modeling.positions import cast_parameters
from deepscaler.observability.files import write_atomically
from deepscaler.types import Request

Report = Callable[[str, Any], None]
SIZES["1.5b"] = {  # Qwen2.5-1.5B and R1-Distill-Qwen-1.5B
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class Workload:
    """How much of everything: the issue's figures for the 1.5B architecture, next to nothing for trying out."""

    micro_batch: int
    sequences: dict[str, list[int]]
    prompt: int
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    decode_steps: int
    generation: tuple[int, int, int]  # completions, prompt tokens, completion tokens
    mismatch: tuple[int, int]  # completions, tokens of each
    step: tuple[int, int, int]  # prompts, completions of each, tokens of each
    product: int  # side of the dense product


FULL = Workload(
    micro_batch=32 * 1024,
    sequences={"8K": [8192] * 4, "16K": [16384] * 2, "24K": [24576, 8192]},
    prompt=512,
    batches=(64, 256, 512),
    contexts=(1024, 8192, 24576),
    decode_steps=16,
    generation=(64, 1024, 256),
    mismatch=(16, 2048),
    step=(16, 8, 8192),
    product=8192,
)
TRIAL = Workload(
    micro_batch=256,
    sequences={"64": [64] * 2, "128": [128]},
    prompt=16,
    batches=(4,),
    contexts=(40, 300),
    decode_steps=3,
    generation=(8, 16, 8),
    mismatch=(8, 12),
    step=(2, 4, 12),
    product=128,
)


def workload(size: str) -> Workload:
    return FULL if size == "1.5b" else TRIAL


def built(size: str, device: torch.device, dtype: torch.dtype, attention: str = NAME) -> Any:
    """The model made where it is used; the large one has a head of its own, as published."""
    with torch.device(device):
        model = build(size, attention, max_tokens=131_072 if size == "1.5b" else 4096)
        if size == "1.5b":
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return cast_parameters(model, dtype)


def multiplied(model: Any) -> list[torch.nn.Parameter]:
    """Weights that take part in products: the embedding of a model with a head of its own is only looked up."""
    embedding = model.get_input_embeddings().weight
    own_head = model.get_output_embeddings().weight is not embedding
    return [p for p in model.parameters() if not (own_head and p is embedding)]


def recipe(size: str, *, chunk: int | None = None, float32_head: bool = False, kl: float = 0.0) -> Recipe:
    work = workload(size)
    return Recipe(
        name="benchmark",
        num_steps=1,
        model=ModelSection(path="unused", dtype="bfloat16", activation_checkpointing=True, float32_head=float32_head),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=work.step[0], group_size=work.step[1]),
        stages=(StageSection(name="s", max_completion_tokens=work.step[2]),),
        algorithm=AlgorithmSection(kl=KlSection(coefficient=kl), entropy_coefficient=kl),
        training=TrainingSection(tokens_per_micro_batch=work.micro_batch, logprob_chunk_tokens=chunk),
    )


def requests(completions: int, prompt_tokens: int, group: int = 8) -> list[Request]:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(2, 1000, prompt_tokens).astype(np.int32) for _ in range(completions // group)]
    return [Request(str(index), prompt, group) for index, prompt in enumerate(prompts)]


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 1, *, warm_up: bool = True) -> float:
    if warm_up:
        function()
    start = clock(device)
    for _ in range(repeats):
        function()
    return (clock(device) - start) / repeats


def dense_rate(device: torch.device, side: int) -> float:
    """FLOP per second of a large product in bfloat16."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / seconds(lambda: a @ a, device, 20 if device.type == "cuda" else 1)


def copy_rate(device: torch.device) -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.zeros(2**30 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, 10)


@contextmanager
def peak_gib(device: torch.device, record: dict[str, Any], name: str = "peak_gib") -> Iterator[None]:
    """Most memory of the device in use inside; null on CPU, which does not count it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    yield
    record[name] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_facts(device: torch.device) -> dict[str, Any]:
    facts = machine()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_gib": round(properties.total_memory / 2**30),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return facts


def main(description: str, parts: dict[str, Callable[[str, torch.device, Report], None]]) -> None:
    """One part in this process. Its results are written after each of them, so what ends early leaves something."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--part", choices=list(parts), default=next(iter(parts)))
    parser.add_argument("--size", choices=list(SIZES), default="1.5b")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=Path, help="write the results there as well")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --size tiny --device cpu tries the script out without one")
    die_with_parent()
    warnings.simplefilter("ignore")
    cpu.prepare(threads=1)
    results: dict[str, Any] = {}

    def report(name: str, value: Any) -> None:
        results[name] = value
        if arguments.json:
            write_atomically(arguments.json, lambda part: part.write_text(json.dumps(results, indent=1) + "\n"))

    report("machine", device_facts(device))
    report("workload", vars(workload(arguments.size)))
    parts[arguments.part](arguments.size, device, report)
    print(json.dumps(results, indent=1))
