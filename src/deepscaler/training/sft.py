"""Supervised training of the replica's base model from synthetic worked solutions."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from deepscaler.attention import NAME, forward_hidden
from deepscaler.config.models import Recipe, SftSection
from deepscaler.data.synthetic import held_out_ids, problem_id, random_chain
from deepscaler.data.templates import format_question, render_prompt
from deepscaler.data.traces import worked_solution
from deepscaler.randomness import generator, key_of
from deepscaler.training.logprobs import token_logprobs
from deepscaler.training.muon import Muon
from deepscaler.training.packing import pack
from deepscaler.training.tokenizer import build_tokenizer
from deepscaler.types import TrainSample

RECORD_FILE = "sft.json"
GROW_UNTIL = 0.5  # share of the steps over which the chains grow to full length
DECAY_FROM = 0.6  # share of the steps after which the learning rate falls linearly to 0
Report = Callable[[dict[str, Any]], None]


def base_directory(recipe: Recipe) -> Path:
    """Where the recipe's base model is kept: named by the hash of everything that shapes it."""
    assert recipe.sft is not None
    data = recipe.data.model_dump(mode="json", include={"instruction", "min_operations", "max_operations"})
    held_out = recipe.evaluation.model_dump(
        mode="json", include={"num_problems", "set_operations", "during_training_problems"}
    )
    sft = recipe.sft.model_dump(mode="json", exclude={"output"})
    identity = json.dumps([recipe.seed, sft, data, held_out], sort_keys=True)
    return Path(recipe.sft.output) / hashlib.sha256(identity.encode()).hexdigest()[:12]


def train_base(recipe: Recipe, directory: Path, report: Report | None = None) -> Path:
    """Train and save a Hugging Face directory; it appears under its name only when it is whole."""
    section = recipe.sft
    if section is None:
        raise ValueError("the recipe has no [sft] section; add one, or give model.path")
    start = time.monotonic()
    tokenizer = build_tokenizer()
    model = _new_model(section, tokenizer, recipe)
    optimizers = _optimizers(model, section)
    samples = _samples(recipe, section, tokenizer)
    loss, num_tokens = float("nan"), 0
    for step in range(section.steps):
        batch = _next_batch(samples, section.tokens_per_step)
        loss = _update(model, optimizers, batch, _rate(step, section))
        num_tokens += sum(s.num_tokens for s in batch)
        seconds = time.monotonic() - start
        if report is not None:
            left = seconds / (step + 1) * (section.steps - step - 1)
            speed = num_tokens / seconds
            state = {"step": step + 1, "num_steps": section.steps, "loss": loss}
            report({**state, "tokens_per_s": speed, "seconds_left": left})
    seconds = time.monotonic() - start
    record = {"seconds": seconds, "loss": loss, "tokens": num_tokens, "tokens_per_s": num_tokens / seconds}
    settings = {"seed": recipe.seed, "sft": section.model_dump(mode="json")}
    _save(model, tokenizer, directory, {**record, **settings})
    return directory


def _new_model(section: SftSection, tokenizer: Any, recipe: Recipe) -> Any:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=section.hidden_size,
        intermediate_size=section.mlp_size,
        num_hidden_layers=section.num_layers,
        num_attention_heads=section.num_heads,
        num_key_value_heads=section.num_kv_heads,
        head_dim=section.head_dim,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(int(key_of("init", recipe.seed)[0]) % 2**63)
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation(NAME)
    return model


def _optimizers(model: Any, section: SftSection) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the layers' matrices, AdamW for everything else, each with its peak learning rate."""
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = Muon(matrices, lr=section.muon_learning_rate)
    adamw = torch.optim.AdamW(rest, lr=section.adamw_learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, section.muon_learning_rate), (adamw, section.adamw_learning_rate)]


def _samples(recipe: Recipe, section: SftSection, tokenizer: Any) -> Iterator[TrainSample]:
    """Endless worked solutions, chains growing with the share of the token budget used, none held out."""
    rng = generator("sft", recipe.seed)
    held_out = held_out_ids(recipe)
    data = recipe.data
    budget, used = section.steps * section.tokens_per_step, 0
    while True:
        growth = min(1.0, used / (GROW_UNTIL * budget))
        longest = data.min_operations + round(growth * (data.max_operations - data.min_operations))
        chain = random_chain(int(rng.integers(data.min_operations, longest + 1)), rng)
        solution = worked_solution(chain, section, rng)
        if problem_id(str(chain)) in held_out:
            continue
        prompt_ids, _ = render_prompt(tokenizer, format_question(chain.problem(), data.instruction))
        ids = [*tokenizer(solution, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        completion = np.array(ids[: section.max_solution_tokens], dtype=np.int32)
        used += len(prompt_ids) + len(completion)
        ones = np.ones(len(completion), dtype=np.float32)
        yield TrainSample(prompt_ids, completion, ones, 0.0, ones, 0)


def _next_batch(samples: Iterator[TrainSample], budget: int) -> list[TrainSample]:
    """Samples until the token budget is reached."""
    batch: list[TrainSample] = []
    while sum(s.num_tokens for s in batch) < budget:
        batch.append(next(samples))
    return batch


def _rate(step: int, section: SftSection) -> float:
    """Share of the peak learning rate: linear warm-up, constant, linear decay to 0."""
    warmup = min(1.0, (step + 1) / max(1, section.warmup_steps))
    decay = (section.steps - step) / (section.steps * (1 - DECAY_FROM))
    return min(warmup, 1.0, decay)


def _update(
    model: Any, optimizers: list[tuple[torch.optim.Optimizer, float]], batch: list[TrainSample], rate: float
) -> float:
    """One optimizer update on the mean cross-entropy of completion tokens; returns it (nats)."""
    packed = pack(batch, torch.device("cpu"))
    hidden = forward_hidden(model, packed.input_ids, packed.position_ids, packed.attention)[0]
    head = model.get_output_embeddings().weight
    logprobs, _ = token_logprobs(
        hidden[packed.predictor_index], head, packed.targets, temperature=1.0, chunk_tokens=8192
    )
    loss = -logprobs.mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _save(model: Any, tokenizer: Any, directory: Path, record: dict[str, Any]) -> None:
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.writing")
    temporary.mkdir(parents=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
