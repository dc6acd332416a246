"""Sampling on a GPU: the 1.5B architecture of the recipe with random weights, bfloat16.

    python benchmarks/gpu_sampling.py [--part decoding | mismatch | generation] [--size 1.5b] [--device cuda]

decoding: batch 64, 256 and 512 at contexts of 1K, 8K and 24K against the bound of memory bandwidth: weights and cache
must be read once a step, at the rate of a large copy in the same run. The cache is filled with random numbers: what a
step reads does not depend on them. Both kinds of attention where this torch has both.
mismatch: engine against learner, log-probability by log-probability, with the head in bfloat16 and in float32, and what
it does to importance weights. generation: whole generations against transformers' `generate` and continuous batching.
Parts of gpu.py; `--size tiny --device cpu` tries them out.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gpu_device import (
    Report,
    built,
    copy_rate,
    empty_cache,
    main,
    multiplied,
    recipe,
    requests,
    seconds,
    workload,
)
from peers import continuous_batching_config
from transformers import GenerationConfig

from deepscaler.engines.sizing import bytes_per_token, cache_bytes
from deepscaler.engines.torch.cuda_graph_step import CudaGraphStep
from deepscaler.engines.torch.decode_state import DecodeState, Sequence
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.flash_attention import flash_works
from deepscaler.engines.torch.paged_cache import FlashCache, PagedCache
from deepscaler.engines.torch.stops import StopConditions
from deepscaler.modeling.positions import cast_parameters
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, Rollout, SamplingParams, TrainSample

FOREVER = SamplingParams(max_completion_tokens=2**30)
BLOCK = 256


class PreparedStep:
    """Decoding steps of rows that all have `context` tokens, over a cache of random numbers."""

    def __init__(self, model: Any, cache: PagedCache, batch: int, context: int, steps: int) -> None:
        per_row = blocks_per_row(context, steps)
        decoder = Decoder(model)
        decoder.refresh(context + steps + 2)
        self._state, prompt = DecodeState(batch, StopConditions(())), np.full(context, 5, np.int32)
        for index in range(batch):
            self._state.add(Sequence(Request(str(index), prompt, 1), 0, FOREVER), cache.allocate(per_row))
        self._state.append(np.full(batch, 7), np.zeros(batch, np.float32))
        for tensor in (*cache.keys, *cache.values):
            tensor.normal_()
        self._step, self._changed = CudaGraphStep(decoder, cache), True

    def run(self) -> None:
        self._state.append(*self._step.run(self._state, self._changed))
        self._changed = False


def blocks_per_row(context: int, steps: int) -> int:
    return -(-(context + 3 * steps + 2) // BLOCK)


def prepared_step(model: Any, kind: type[PagedCache], batch: int, context: int, steps: int) -> PreparedStep | None:
    """None where the cache does not fit. `steps`: about a third of what will be run."""
    device = next(model.parameters()).device
    cache = kind(model.config, model.dtype, device, cache_bytes(device, 1) * 21 // 20, BLOCK)
    if batch * blocks_per_row(context, steps) > cache.allocator.num_free:
        return None
    return PreparedStep(model, cache, batch, context, steps)


def decode(model: Any, kind: type[PagedCache], batch: int, context: int, steps: int) -> dict[str, Any]:
    """Steps of `batch` rows at `context` tokens; says so where their cache does not fit."""
    prepared = prepared_step(model, kind, batch, context, steps)
    if prepared is None:
        return {"batch": batch, "context": context, "fits": False}
    device = next(model.parameters()).device
    taken = seconds(prepared.run, device, steps)
    per_token = bytes_per_token(model.config, model.dtype)
    return {
        "batch": batch,
        "context": context,
        "fits": True,
        "ms_per_step": 1e3 * taken,
        "tokens_per_s": batch / taken,
        "bytes_per_step": sum(p.nbytes for p in multiplied(model)) + batch * context * per_token,
    }


@torch.inference_mode()
def decoding(size: str, device: torch.device, report: Report) -> None:
    work, model = workload(size), built(size, device, torch.bfloat16)
    rate = copy_rate(device)
    report("copy_gb_per_s", rate / 1e9)
    decoder = Decoder(model)
    flash = flash_works(device, model.dtype, decoder.heads, decoder.kv_heads, decoder.head_dim)
    report("flash_works", flash)
    cases = [(context, batch) for context in work.contexts for batch in work.batches]
    for kind in (FlashCache, PagedCache) if flash else (PagedCache,):
        results = []
        # The one that is not used is there for the choice: one batch of each context says enough.
        for context, batch in cases if kind is FlashCache or not flash else cases[:: len(work.batches)]:
            found = decode(model, kind, batch, context, work.decode_steps)
            if found["fits"]:
                found["share_of_bound"] = found["bytes_per_step"] / rate * 1e3 / found["ms_per_step"]
            results.append(found)
            report(kind.__name__, results)
            empty_cache(device)


def as_samples(rollouts: list[Rollout]) -> list[TrainSample]:
    return [
        TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, np.ones(r.num_tokens, np.float32), 0)
        for r in rollouts
    ]


def weights_of(deltas: list[np.ndarray]) -> dict[str, Any]:
    """deltas: learner minus engine, one array per completion."""
    every = np.concatenate(deltas).astype(np.float64)
    ratios, sequences = np.exp(every), np.exp([float(np.sum(d)) for d in deltas])
    return {
        "mean_abs": float(np.abs(every).mean()),
        "p99_abs": float(np.quantile(np.abs(every), 0.99)),
        "max_abs": float(np.abs(every).max()),
        "mean_abs_of_each_eighth": [float(np.abs(p).mean()) for p in np.array_split(np.stack(deltas), 8, axis=1)],
        "token_weight_std": float(ratios.std()),
        "token_weight_outside_clip_0.2_frac": float((np.abs(ratios - 1) > 0.2).mean()),
        "token_effective_sample_frac": float(ratios.sum() ** 2 / (ratios**2).sum() / len(ratios)),
        "sequence_weight_std": float(sequences.std()),
    }


def mismatch(size: str, device: torch.device, report: Report) -> None:
    """The real engine and the real learner, each with its own weights: bfloat16, and float32 with mixed precision."""
    work = workload(size)
    model = built(size, device, torch.float32)
    half = cast_parameters(copy.deepcopy(model), torch.bfloat16)
    batch, length = work.mismatch
    for name, wide in (("head in bfloat16", False), ("head in float32", True)):
        engine = TorchEngine(half, stop_ids=frozenset(), max_active=batch, float32_head=wide)
        rollouts = list(engine.generate(requests(batch, 64), SamplingParams(length)))
        engine.release_memory()
        settings = recipe(size, float32_head=wide)
        computer = GradientComputer(
            model,
            None,
            settings.algorithm,
            settings.training,
            temperature=1.0,
            autocast=True,
            float32_head=settings.model.float32_head,
        )
        values = computer.logprobs(as_samples(rollouts))
        report(name, weights_of([v - r.rollout_logprobs for v, r in zip(values, rollouts, strict=True)]))


def ours(model: Any, wanted: list[Request], params: SamplingParams) -> dict[str, Any]:
    """Tokens per second of the engine, whose cache ends with it."""
    count, device = sum(r.num_samples for r in wanted), next(model.parameters()).device
    engine = TorchEngine(model, stop_ids=frozenset(), max_active=count)
    taken = seconds(lambda: list(engine.generate(wanted, params)), device)
    engine.release_memory()
    return {"tokens_per_s": count * params.max_completion_tokens / taken, "cache": type(engine.cache).__name__}


def generation(size: str, device: torch.device, report: Report) -> None:
    """Whole generations of equal length: ours, `generate`, continuous batching."""
    batch, prompt_tokens, length = workload(size).generation
    wanted, model = requests(batch, prompt_tokens), built(size, device, torch.bfloat16)
    report("deepscaler", ours(model, wanted, SamplingParams(max_completion_tokens=length)))
    model.set_attn_implementation("sdpa")
    ids = torch.from_numpy(np.repeat(np.stack([r.prompt_ids for r in wanted]), 8, axis=0)).long().to(device)
    forever: dict[str, Any] = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "max_new_tokens": length}
    config, mask = GenerationConfig(**forever, eos_token_id=None), torch.ones_like(ids)

    def plain() -> None:
        model.generate(ids, attention_mask=mask, generation_config=config)

    report("generate", {"tokens_per_s": batch * length / seconds(plain, device)})
    pages = batch * -(-(prompt_tokens + length) // 32) + 64
    memory: dict[str, Any] = {"max_memory_percent": 0.5} if device.type == "cuda" else {"num_blocks": pages}
    continuous: dict[str, Any] = {
        "generation_config": GenerationConfig(**forever, eos_token_id=-1),
        "continuous_batching_config": continuous_batching_config(32, max_batch_tokens=2048, **memory),
        "progress_bar": False,
    }
    tokens = ids.tolist()
    taken = seconds(lambda: model.generate_batch(tokens, **continuous), device)
    report("continuous batching", {"tokens_per_s": batch * length / taken})


if __name__ == "__main__":
    main(__doc__ or "", {"decoding": decoding, "mismatch": mismatch, "generation": generation})
