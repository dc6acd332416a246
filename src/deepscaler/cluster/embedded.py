"""A model directory as an engine in this process: tokenizer, weights, cache of a size that fits, workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.processes import num_processes, open_sharded_engine
from deepscaler.config.evaluation import EngineSection
from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.data.stopping import all_stop_ids
from deepscaler.data.templates import TemplateFacts, decoder, encode_problem, template_facts
from deepscaler.engines.sizing import DTYPES, max_sequences, pick_device, pick_dtype
from deepscaler.engines.torch.stops import plain_decode
from deepscaler.observability.counts import counted
from deepscaler.positions import model_context
from deepscaler.protocols import Sampler
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.model import (
    ModelError,
    checked_config,
    load_model,
    load_tokenizer,
    resolve_model,
    stop_token_ids_of,
    unknown_ids,
)
from deepscaler.types import IntArray, Problem, SamplingParams

MODEL_FILES = (
    "*.safetensors",
    "*config.json",
    "tokenizer.*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "*.jinja",
)
TRAINING_FILES = frozenset({"optimizer.safetensors", "reference.safetensors"})  # beside the weights in a checkpoint


@dataclass(frozen=True)
class ModelFiles:
    """A model directory before its weights are loaded; its files hold those that `config` describes."""

    directory: Path
    config: Any
    tokenizer: Any
    device: torch.device
    dtype: str
    template: TemplateFacts

    def prompt_ids(self, problem: Problem, instruction: str) -> IntArray:
        return encode_problem(self.tokenizer, problem, instruction)

    def stop_ids(self, chosen: Sequence[int]) -> frozenset[int]:
        """Every token that ends a completion. chosen: by the settings, beside those of the model's files."""
        configured = stop_token_ids_of(self.directory, self.tokenizer)
        return all_stop_ids(configured, self.tokenizer, chosen)

    def facts(self) -> dict[str, Any]:
        """What shapes a completion and is in no file: only where there is any."""
        configured = stop_token_ids_of(self.directory, self.tokenizer)
        return stopping_facts(self.tokenizer, configured, self.config.vocab_size)


def open_model(path: str | Path, engine: EngineSection) -> ModelFiles:
    """Raises ModelError for a directory that cannot be used, one without chat template among them."""
    directory = resolve_model(path)
    config = checked_config(directory)
    tokenizer = load_tokenizer(directory)
    device = pick_device()
    dtype = pick_dtype(engine.dtype, device)
    return ModelFiles(directory, config, tokenizer, device, dtype, template_facts(tokenizer))


def stopping_facts(tokenizer: Any, configured: frozenset[int], rows: int) -> dict[str, Any]:
    """Stop tokens that only the chat template names, and how many of the head's `rows` are no tokens."""
    turn_end, num_forbidden = all_stop_ids((), tokenizer) - configured, len(unknown_ids(tokenizer, rows))
    return {
        **({"turn_end_ids": sorted(turn_end)} if turn_end else {}),
        **({"num_forbidden_ids": num_forbidden} if num_forbidden else {}),
    }


def files_sha256(directory: Path) -> str:
    """SHA-256 over names and contents of weights, configuration and tokenizer: what shapes a completion."""
    digest = hashlib.sha256()
    names = {p for pattern in MODEL_FILES for p in directory.glob(pattern)}
    for path in sorted(p for p in names if p.name not in TRAINING_FILES):
        with path.open("rb") as file:
            digest.update(f"{path.name}|{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def check_context(files: ModelFiles, prompts: Sequence[IntArray], params: SamplingParams) -> None:
    """Raises ModelError when the longest prompt and the budget exceed the model's context."""
    context = model_context(files.config)
    longest, budget = max(map(len, prompts)), params.max_completion_tokens
    if longest + budget > context:
        raise ModelError(
            f"a budget of {counted(budget, 'token')} above the model's context: {files.directory} takes "
            f"{counted(context, 'token')}, the "
            f"longest prompt has {longest}; give --max-tokens {max(1, context - longest)} or fewer"
        )


@contextmanager
def open_torch_engine(
    files: ModelFiles, engine: EngineSection, *, capacity: int, params: SamplingParams
) -> Iterator[tuple[Sampler, Callable[[Any], str]]]:
    """The engine in this process and its helpers, and what turns its ids into text.

    capacity: tokens of prompt and completion. params: what ends a completion.
    """
    device = files.device
    dtype = DTYPES[files.dtype]
    model = load_model(files.directory, dtype=dtype, device=device, tokenizer=files.tokenizer, longest=capacity)
    count = num_processes(engine.processes, device)
    slots = max_sequences(model.config, dtype, device, capacity=capacity, most=engine.max_active)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    stop_ids = files.stop_ids(params.stop_token_ids)
    settings = EngineSettings(stop_ids, slots, plain_decode(files.tokenizer))
    with open_sharded_engine(computer, settings, count=count) as sampler:
        yield sampler, decoder(files.tokenizer, stop_ids, params.stop)


def device_facts() -> dict[str, str]:
    """The GPU that is used, if there is one."""
    return {"gpu": torch.cuda.get_device_name()} if pick_device().type == "cuda" else {}
