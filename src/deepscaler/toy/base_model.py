"""The base model of a recipe: the directory it names, or the one its [sft] section describes, made when absent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepscaler.cluster.local import num_processes, start_helpers
from deepscaler.cluster.replica import SharedReplica
from deepscaler.config import Recipe
from deepscaler.config.schema import RecipeError
from deepscaler.config.sections.model import SftSection
from deepscaler.config.setting import values_shaping
from deepscaler.data.identity import problem_id
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.sources.synthetic import held_out_ids, random_chain
from deepscaler.data.templates import render_prompt
from deepscaler.json_text import canonical_digest
from deepscaler.loop.progress import Progress, duration, speed
from deepscaler.observability.run_directory import read_json
from deepscaler.randomness import generator
from deepscaler.toy.muon_helpers import MuonHelper, shared_orthogonalise
from deepscaler.toy.supervised import RECORD_FILE, new_model, optimizers, save_base
from deepscaler.toy.supervised import train as train_supervised
from deepscaler.toy.tokenizer import build_tokenizer
from deepscaler.toy.traces import WORDS, worked_solution
from deepscaler.training.cross_entropy import cross_entropy_computer, supervised_sample
from deepscaler.types import TrainSample

GROW_UNTIL = 0.5  # share of the token budget over which the chains grow to full length


def ensure_base(recipe: Recipe, progress: Progress, out: Path | None = None) -> tuple[Path, dict[str, Any], bool]:
    """(directory, record of its making, whether it was there already). `out` overrides where [sft] puts it.

    Raises RecipeError where the recipe's data would not be what the base is made from.
    """
    if recipe.sft is None:
        assert recipe.model.path is not None
        return Path(recipe.model.path), {"seconds": 0.0}, True
    if recipe.data.source != "synthetic":
        raise RecipeError(
            f"[sft] makes a small model from synthetic worked solutions and reads no file, so data.source = "
            f"{recipe.data.source!r} would not be used; set data.source = 'synthetic', or remove [sft] and set "
            f"model.path to a model that is to be trained on {recipe.data.source}"
        )
    directory = out or base_directory(recipe, recipe.sft)
    reused = (directory / RECORD_FILE).is_file()
    if not reused:
        progress.message(f"training the base model into {directory}")
        _train_base(recipe, recipe.sft, directory, progress)
    record = read_json(directory / RECORD_FILE) or {}
    if "seconds" not in record:
        raise ValueError(f"{directory / RECORD_FILE} is damaged: no field seconds; remove {directory} to make it again")
    made = "made earlier" if reused else "made"
    progress.message(f"base model {directory} ({made} in {record['seconds']:.0f} s)")
    return directory, record, reused


def base_directory(recipe: Recipe, section: SftSection) -> Path:
    """Where the recipe's base model is kept: named by the digest of every setting that shapes it.

    The digest is that of an array with spaces after commas and colons, from the first version on, so that bases made
    earlier are found.
    """
    shaping = values_shaping(recipe, "base")
    return Path(section.output) / canonical_digest(list(shaping.values()), separators=(", ", ": "))[:12]


def _train_base(recipe: Recipe, section: SftSection, directory: Path, progress: Progress) -> None:
    tokenizer = build_tokenizer(WORDS)
    model = new_model(section, tokenizer, recipe.seed)
    computer = cross_entropy_computer(model, recipe.training)

    def report(state: dict[str, Any]) -> None:
        progress.update(
            f"   sft step {state['step']:>4}/{state['num_steps']}  loss {state['loss']:.3f}"
            f"  {speed(state['tokens_per_s'])}  left {duration(state['seconds_left'])}"
        )

    count = num_processes(recipe.training.processes, torch.device("cpu"))
    with start_helpers(computer, None, count - 1, build=MuonHelper, most_restarts=0) as helpers:
        replica = SharedReplica(computer, optimizers(section, shared_orthogonalise(helpers)), helpers)
        samples = supervised_samples(recipe, section, tokenizer)
        record = train_supervised(model, replica, samples, section, report)
    settings = {"seed": recipe.seed, "sft": section.model_dump(mode="json")}
    save_base(model, tokenizer, directory, {**record, **settings})


def supervised_samples(recipe: Recipe, section: SftSection, tokenizer: Any) -> Iterator[TrainSample]:
    """Endless worked solutions, none of a held-out problem; the chains grow with the share of the budget used."""
    rng = generator("sft", recipe.seed)
    held_out = held_out_ids(recipe.evaluation)
    data, prompt_format = recipe.data, PromptFormat(recipe.data.instruction)
    budget, used = section.steps * section.tokens_per_step, 0
    while True:
        growth = min(1.0, used / (GROW_UNTIL * budget))
        longest = data.min_operations + round(growth * (data.max_operations - data.min_operations))
        chain = random_chain(int(rng.integers(data.min_operations, longest + 1)), rng)
        solution = worked_solution(chain, section, rng)
        if problem_id(str(chain)) in held_out:
            continue
        prompt_ids, _ = render_prompt(tokenizer, prompt_format.question(chain.problem()))
        ids = [*tokenizer(solution, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        completion = np.array(ids[: section.max_solution_tokens], dtype=np.int32)
        used += len(prompt_ids) + len(completion)
        yield supervised_sample(prompt_ids, completion)
