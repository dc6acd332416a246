"""A model directory as an engine in this process: tokenizer, weights, cache of a size that fits, workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepscaler import cpu
from deepscaler.config.evaluation import EngineSection
from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.data.templates import format_question, render_prompt, template_hash
from deepscaler.orchestration.build import decoder, pick_device
from deepscaler.orchestration.parallel import Team
from deepscaler.orchestration.team import start_team
from deepscaler.rollout.cache import bytes_per_token
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.model import ModelError, load_model, load_tokenizer, resolve_model, stop_token_ids
from deepscaler.types import IntArray, Problem, SamplingParams

CACHE_SHARE = 0.6  # of the free memory, for the key-value cache; activations and a copy while it grows need the rest
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelFiles:
    """A model directory before its weights are loaded."""

    directory: Path
    tokenizer: Any
    device: torch.device
    dtype: str
    thinking_prefilled: bool

    def prompt_ids(self, problem: Problem, instruction: str) -> IntArray:
        return render_prompt(self.tokenizer, format_question(problem, instruction))[0]

    def identity(self) -> dict[str, str]:
        """What of the directory shapes completions, as hashes."""
        return {"sha256": files_sha256(self.directory), "template_sha256": template_hash(self.tokenizer)}


def open_model(path: str | Path, engine: EngineSection) -> ModelFiles:
    """Raises ModelError for a directory that cannot be used, one without chat template among them."""
    directory = resolve_model(path)
    tokenizer = load_tokenizer(directory)
    device = pick_device()
    dtype = engine.dtype if engine.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    return ModelFiles(directory, tokenizer, device, dtype, render_prompt(tokenizer, "x")[1])


def files_sha256(directory: Path) -> str:
    """SHA-256 over names and contents of weights, configuration and tokenizer."""
    digest = hashlib.sha256()
    names = {p for pattern in ("*.safetensors", "*.json", "*.jinja") for p in directory.glob(pattern)}
    for path in sorted(names):
        with path.open("rb") as file:
            digest.update(f"{path.name}|{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def check_context(path: Path, prompts: Sequence[IntArray], params: SamplingParams) -> None:
    """Raises ModelError when the longest prompt and the budget exceed the model's context."""
    from transformers import AutoConfig

    context = AutoConfig.from_pretrained(path).max_position_embeddings
    longest, budget = max(map(len, prompts)), params.max_completion_tokens
    if longest + budget > context:
        raise ModelError(
            f"a budget of {budget} tokens above the model's context: {path} takes {context} tokens, the longest prompt "
            f"has {longest}; give --max-tokens {max(1, context - longest)} or fewer"
        )


@contextmanager
def embedded_team(
    files: ModelFiles, engine: EngineSection, *, capacity: int
) -> Iterator[tuple[Team, Callable[[Any], str]]]:
    """The engine with its workers, and what turns its ids into text. capacity: tokens of prompt and completion."""
    device = files.device
    model = load_model(files.directory, dtype=DTYPES[files.dtype], device=device)
    count = 1 if device.type != "cpu" else engine.processes or cpu.available_cores()
    fits = int(_free_bytes(device) * CACHE_SHARE / (bytes_per_token(model.config, DTYPES[files.dtype]) * capacity))
    if fits < count:
        raise ModelError(
            f"the cache of one sequence of {capacity} tokens does not fit into the free memory; lower --max-tokens"
        )
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    stop_ids = stop_token_ids(model, files.tokenizer)
    with start_team(computer, model, stop_ids, count=count, max_active=min(engine.max_active, fits)) as team:
        yield team, decoder(files.tokenizer, stop_ids)


def device_facts() -> dict[str, str]:
    """The GPU that is used, if there is one."""
    return {"gpu": torch.cuda.get_device_name()} if pick_device().type == "cuda" else {}


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30  # where the system does not say
