"""A run small enough for tests: a random model of a few thousand weights, a recipe file, and the real command line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from deepscaler.config.sections.model import SftSection
from deepscaler.toy.supervised import new_model
from deepscaler.toy.tokenizer import build_tokenizer
from deepscaler.toy.traces import WORDS

# The soft penalty rewards by length, so that a model that answers nothing right still has something to learn.
RECIPE = """
name = "tiny"
num_steps = {num_steps}
seed = 3

[model]
path = "{model}"

[data]
source = "synthetic"
instruction = ""
max_prompt_tokens = 64
num_problems = 40
max_operations = 4

[rollout]
prompts_per_step = 4
group_size = 4

[[stages]]
name = "short"
max_completion_tokens = 24
steps = 3

[[stages]]
name = "long"
max_completion_tokens = 40
reset_optimizer = true
reset_reference = true
reshuffle = true

[algorithm]
truncated = "soft_penalty"
soft_penalty_tokens = 20

[algorithm.kl]
coefficient = 0.01

[optimizer]
learning_rate = 1e-3
mini_batch_prompts = 2

[training]
processes = {processes}
tokens_per_micro_batch = 256

[evaluation]
num_samples = 2
num_problems = 3
set_operations = [2, 3]
during_training_problems = 2
during_training_samples = 2
max_completion_tokens = 40

[checkpoint]
every_steps = {every_steps}
keep = 2

[alarms]
stop = false
"""


def write_model(directory: Path, *, hidden_size: int = 32, head_dim: int = 16) -> Path:
    """A Hugging Face directory with random weights, a tokenizer and a chat template."""
    section = SftSection(
        hidden_size=hidden_size, head_dim=head_dim, num_layers=2, num_heads=2, num_kv_heads=1, mlp_size=48
    )
    tokenizer = build_tokenizer(WORDS)
    new_model(section, tokenizer, seed=5).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_recipe(
    directory: Path, *, num_steps: int = 6, every_steps: int = 1, processes: int = 2, model: Path | None = None
) -> Path:
    """A recipe over a new tiny model, both in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = model or write_model(directory / "model")
    recipe = directory / "tiny.toml"
    text = RECIPE.format(model=path, num_steps=num_steps, every_steps=every_steps, processes=processes)
    recipe.write_text(text)
    return recipe


def deepscaler(*arguments: object, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """The command line as a user calls it; standard error is kept apart."""
    command = [sys.executable, "-m", "deepscaler.cli.main", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)


def final_digests(run_dir: Path, step: int) -> dict[str, str]:
    """SHA-256 of everything that makes the state of a run at a step."""
    checkpoint = run_dir / "checkpoints" / f"step-{step:06d}"
    names = ("model.safetensors", "optimizer.safetensors", "reference.safetensors", "state.json", "learner.json")
    return {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in names}
