"""Supervised training of a small model from scratch on given samples."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from deepscaler import cpu
from deepscaler.cluster.replica import SharedReplica
from deepscaler.config.sections.model import SftSection
from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import family_of
from deepscaler.observability.destinations import directory_destination
from deepscaler.observability.files import fsync, storage_fault
from deepscaler.randomness import key_of
from deepscaler.toy.muon import Muon, Orthogonalise
from deepscaler.training.cross_entropy import token_mean
from deepscaler.training.replica import Optimizers
from deepscaler.types import RunError, TrainSample

RECORD_FILE = "sft.json"
MAX_CONTEXT = 2048
DECAY_FROM = 0.6  # share of the steps after which the learning rate falls linearly to 0
MAX_GRAD_NORM = 1.0
# µs for a token's worth of worked solution, and of gradient: passes and calls, and 6 operations per parameter. Only how
# evenly processes share a step depends on them. Measured before passes were compiled, which took about 10 of the 20.
MAKING_US, FIXED_US, US_PER_PARAMETER = 2.5, 20.0, 4e-5
Report = Callable[[dict[str, Any]], None]
Batch = list[TrainSample]


def new_model(section: SftSection, tokenizer: Any, seed: int) -> Any:
    """A Qwen2 model with random weights, a function of the seed."""
    head_dim: Any = {"head_dim": section.head_dim}  # the model reads it, though Qwen2Config declares no such field
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=section.hidden_size,
        intermediate_size=section.mlp_size,
        num_hidden_layers=section.num_layers,
        num_attention_heads=section.num_heads,
        num_key_value_heads=section.num_kv_heads,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **head_dim,
    )
    torch.manual_seed(int(key_of("init", seed)[0]) % 2**63)
    model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation(NAME)
    return cpu.accelerate(model, family_of(model).parts)


def train(
    model: Any,
    replica: SharedReplica,
    samples: Iterator[TrainSample],
    section: SftSection,
    report: Report | None = None,
) -> dict[str, Any]:
    """`section.steps` updates of the replica, which has this model; returns the record of the run."""
    start = time.monotonic()
    loss, num_tokens = float("nan"), 0
    batches = (next_batch(samples, section.tokens_per_step) for _ in range(section.steps))
    following, making_tokens = next(batches), round(_making_cost(model) * section.tokens_per_step)
    for step in range(section.steps):
        batch = following
        loss, following = _update(replica, batch, batches, making_tokens, _rate(step, section))
        num_tokens += sum(s.num_tokens for s in batch)
        seconds = time.monotonic() - start
        if report is not None and (step or section.steps == 1):  # the first waits for processes to start
            left = seconds / (step + 1) * (section.steps - step - 1)
            state = {"step": step + 1, "num_steps": section.steps, "loss": loss}
            report({**state, "tokens_per_s": num_tokens / seconds, "seconds_left": left})
    seconds = time.monotonic() - start
    return {"seconds": seconds, "loss": loss, "tokens": num_tokens, "tokens_per_s": num_tokens / seconds}


def optimizers(section: SftSection, orthogonalise: Orthogonalise) -> Callable[[nn.Module], Optimizers]:
    """Muon for the layers' matrices, AdamW for everything else, each with its peak learning rate."""

    def make(model: nn.Module) -> Optimizers:
        matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        muon = Muon(matrices, lr=section.muon_learning_rate, orthogonalise=orthogonalise)
        adamw = torch.optim.AdamW(rest, lr=section.adamw_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        return [(muon, section.muon_learning_rate), (adamw, section.adamw_learning_rate)]

    return make


def next_batch(samples: Iterator[TrainSample], budget: int) -> Batch:
    """Samples until the token budget is reached; every completion token weighs the same."""
    batch: Batch = []
    used = 0
    while used < budget:
        batch.append(next(samples))
        used += batch[-1].num_tokens
    return token_mean(batch)


def _rate(step: int, section: SftSection) -> float:
    """Share of the peak learning rate: linear warm-up, constant, linear decay to 0."""
    warmup = (step + 1) / max(1, section.warmup_steps)
    decay = (section.steps - step) / (section.steps * (1 - DECAY_FROM))
    return min(warmup, 1.0, decay)


def _update(
    replica: SharedReplica, batch: Batch, batches: Iterator[Batch], making_tokens: int, rate: float
) -> tuple[float, Batch]:
    """One optimizer update; returns the mean cross-entropy (nats per token) and the next batch, made meanwhile."""
    sums, following = replica.accumulate_while(batch, None, None, lambda: next(batches, []), making_tokens)
    replica.apply(rate, MAX_GRAD_NORM)
    return sums.loss, following


def _making_cost(model: Any) -> float:
    """What making a sample costs, as a share of its gradient."""
    return MAKING_US / (FIXED_US + US_PER_PARAMETER * model.num_parameters())


def save_base(model: Any, tokenizer: Any, directory: Path, record: dict[str, Any]) -> None:
    """A Hugging Face directory that appears under its name only when it is whole."""
    directory = directory_destination(directory)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.writing")
    temporary.mkdir(parents=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
        for path in [*temporary.rglob("*"), temporary]:  # step 0 of a run relies on its base model
            fsync(path)
        temporary.rename(directory)
        fsync(directory.parent)
    except Exception as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise RunError(f"the base model was not written to {directory}: {fault}; make room and try again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
