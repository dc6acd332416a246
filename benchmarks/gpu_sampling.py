"""Sampling on a GPU: the 1.5B architecture of the recipe with random weights, bfloat16.

    python benchmarks/gpu_sampling.py [--json FILE] [--size 1.5b] [--device cuda]

Decoding at batch 64, 256 and 512 and contexts of 1K, 8K and 24K against the bound of memory bandwidth: weights and
cache must be read once a step, at the rate of a large copy in the same run. The cache is filled with random numbers:
what a step reads does not depend on them. Then whole generations against transformers' `generate` and continuous
batching, and the difference between the engine's log-probabilities and a full forward, with the head in bfloat16 and
in float32, and what it does to importance weights. `--size tiny --device cpu` tries the script out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_sizes import SIZES, build
from records import machine
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from deepscaler.attention import NAME, PackedAttention, forward_hidden
from deepscaler.rollout.cache import default_cache_bytes
from deepscaler.rollout.decoder import Decoder
from deepscaler.rollout.pool import PoolCache, PoolStep
from deepscaler.rollout.rows import Rows, Sequence
from deepscaler.rollout.sampling import KeyedUniforms
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.types import Request, Rollout, SamplingParams

BATCHES, CONTEXTS = (64, 256, 512), (1024, 8192, 24576)
STEPS = 16
PARAMS = SamplingParams(max_completion_tokens=2**30)
NEVER = np.array([-1])
SIZES["1.5b"] = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}


def built(size: str, device: torch.device) -> Any:
    """The model in bfloat16; the large one has a head of its own, as published."""
    model = build(size, NAME)
    if size == "1.5b":
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model.to(device, torch.bfloat16)


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    function()
    start = clock(device)
    for _ in range(repeats):
        function()
    return (clock(device) - start) / repeats


def copy_rate(device: torch.device) -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.zeros(2**29 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device, 10)


def decode(model: Any, batch: int, context: int) -> dict[str, Any]:
    """Steps of `batch` rows at `context` tokens; says so where their cache does not fit."""
    device = next(model.parameters()).device
    cache = PoolCache(model.config, model.dtype, device, default_cache_bytes(device) * 17 // 10, 256)
    per_row = -(-(context + STEPS + 2) // cache.block_tokens)
    if batch * per_row > cache.allocator.num_free:
        return {"batch": batch, "context": context, "fits": False}
    decoder = Decoder(model)
    decoder.refresh(context + STEPS + 2)
    rows = Rows(batch, NEVER)
    prompt = np.full(context, 5, np.int32)
    for index in range(batch):
        request = Request(str(index), prompt, 1)
        rows.add(Sequence(request, 0, KeyedUniforms(PARAMS, str(index), 0), 2**30), cache.take(per_row))
    rows.append(np.full(batch, 7), np.zeros(batch, np.float32))
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    step = PoolStep(decoder, cache)
    changed = [True]

    def run() -> None:
        rows.append(*step.run(rows, PARAMS, changed[0]))
        changed[0] = False

    taken = seconds(run, device, STEPS)
    weights = sum(p.nbytes for p in model.parameters())
    per_token = cache.block_bytes // cache.block_tokens
    return {
        "batch": batch,
        "context": context,
        "fits": True,
        "ms_per_step": 1e3 * taken,
        "tokens_per_s": batch / taken,
        "bytes_per_step": weights + batch * context * per_token,
    }


def requests(batch: int, prompt_tokens: int, vocabulary: int) -> list[Request]:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(2, min(1000, vocabulary), prompt_tokens).astype(np.int32) for _ in range(batch // 8)]
    return [Request(str(index), prompt, 8) for index, prompt in enumerate(prompts)]


def ours(model: Any, wanted: list[Request], params: SamplingParams) -> float:
    """Tokens per second of the engine, whose cache ends with it."""
    count = sum(r.num_samples for r in wanted)
    engine = TorchEngine(model, stop_ids=frozenset(), max_active=count)
    device = next(model.parameters()).device
    return count * params.max_completion_tokens / seconds(lambda: list(engine.generate(wanted, params)), device, 1)


def peers(size: str, device: torch.device, batch: int, prompt_tokens: int, length: int) -> dict[str, float]:
    """Tokens per second of whole generations of equal length: ours, `generate`, continuous batching."""
    wanted = requests(batch, prompt_tokens, SIZES[size]["vocab_size"])
    model = built(size, device)
    rates = {"deepscaler": ours(model, wanted, SamplingParams(max_completion_tokens=length))}
    model.set_attn_implementation("sdpa")
    ids = torch.from_numpy(np.repeat(np.stack([r.prompt_ids for r in wanted]), 8, axis=0)).long().to(device)
    config = GenerationConfig(do_sample=True, top_k=0, pad_token_id=0, eos_token_id=None, max_new_tokens=length)
    mask = torch.ones_like(ids)
    run = lambda: model.generate(ids, attention_mask=mask, generation_config=config)  # noqa: E731
    rates["generate"] = batch * length / seconds(run, device, 1)
    config = GenerationConfig(do_sample=True, top_k=0, pad_token_id=0, eos_token_id=-1, max_new_tokens=length)
    batching = ContinuousBatchingConfig(max_memory_percent=0.5)
    tokens = ids.tolist()
    run = lambda: model.generate_batch(  # noqa: E731
        tokens, generation_config=config, continuous_batching_config=batching, progress_bar=False
    )
    rates["continuous batching"] = batch * length / seconds(run, device, 1)
    return rates


def full_forward(model: Any, rollout: Rollout, *, wide_head: bool) -> torch.Tensor:
    """The completion's log-probabilities as the learner computes them; `wide_head`: head in float32."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids])).long().to(device)
    positions = torch.arange(len(ids), device=device).unsqueeze(0)
    hidden = forward_hidden(model, ids.unsqueeze(0), positions, PackedAttention([len(ids)], device))[0]
    hidden = hidden[len(rollout.prompt_ids) - 1 : -1]
    weight = model.get_output_embeddings().weight
    logits = hidden.float() @ weight.float().T if wide_head else (hidden @ weight.T).float()
    chosen = ids[len(rollout.prompt_ids) :].unsqueeze(1)
    return logits.log_softmax(-1).gather(1, chosen).squeeze(1).cpu()


@torch.inference_mode()
def mismatch(size: str, device: torch.device, batch: int, length: int) -> dict[str, dict[str, float]]:
    """|Δ logprob| between engine and full forward, and the spread of exp(Δ) summed over a completion."""
    model = built(size, device)
    engine = TorchEngine(model, stop_ids=frozenset(), max_active=batch)
    rollouts = list(engine.generate(requests(batch, 64, SIZES[size]["vocab_size"]), SamplingParams(length)))
    result = {}
    for name, wide in (("head in bfloat16", False), ("head of the learner in float32", True)):
        deltas = [full_forward(model, r, wide_head=wide) - torch.from_numpy(r.rollout_logprobs) for r in rollouts]
        every, sums = torch.cat(deltas), torch.stack([d.sum() for d in deltas])
        result[name] = {
            "mean_abs": float(every.abs().mean()),
            "max_abs": float(every.abs().max()),
            "token_weight_std": float(every.exp().std()),
            "sequence_weight_std": float(sums.exp().std()),
        }
    return result


def measure(size: str, device: torch.device) -> dict[str, Any]:
    small = device.type == "cpu"
    model = built(size, device)
    rate = copy_rate(device)
    decoding = []
    with torch.inference_mode():
        for batch in (8,) if small else BATCHES:
            for context in (300,) if small else CONTEXTS:
                found = decode(model, batch, context)
                if found["fits"]:
                    found["share_of_bound"] = found["bytes_per_step"] / rate * 1e3 / found["ms_per_step"]
                decoding.append(found)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    del model
    batch, prompt, length = (8, 16, 8) if small else (64, 1024, 256)
    return {
        "copy_gb_per_s": rate / 1e9,
        "decoding": decoding,
        "generation_tokens_per_s": peers(size, device, batch, prompt, length),
        "mismatch": mismatch(size, device, 8 if small else 32, 8 if small else 512),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="1.5b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="write the record there as well")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    info = {**machine(), "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    record = json.dumps({"machine": info, "size": arguments.size, **measure(arguments.size, device)}, indent=1)
    print(record)
    if arguments.json:
        arguments.json.write_text(record)


if __name__ == "__main__":
    main()
