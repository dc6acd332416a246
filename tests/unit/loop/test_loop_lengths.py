"""A run that cannot fit into the model's context is refused before its first step, and `explain` says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from deepscaler.config import load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.experience import OnPolicy
from deepscaler.loop.progress import Progress
from deepscaler.loop.validation import Evaluator
from deepscaler.types import SamplingParams
from tiny_run import deepscaler, write_recipe


def with_context(directory: Path, tokens: int) -> Path:
    """A recipe over a model of this context."""
    recipe = write_recipe(directory, processes=1)
    path = directory / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": tokens}))
    return recipe


def test_a_later_stage_beyond_the_context_is_refused_before_the_run_directory_exists(tmp_path):
    path = with_context(tmp_path, 64)
    recipe = load_recipe(path, ["stages.1.max_completion_tokens=60", "evaluation.max_completion_tokens=20"])
    wanted = r"stage long: the longest prompt has \d+ tokens, with stages\.1\.max_completion_tokens = 60 that is"
    with pytest.raises(ValueError, match=wanted), open_run(recipe, tmp_path / "model", tmp_path / "run", Progress()):
        pass
    assert not (tmp_path / "run").exists()


def test_evaluations_inside_training_count_and_stages_that_are_never_reached_do_not(tmp_path):
    path = with_context(tmp_path, 64)
    unreached = load_recipe(
        path, ["num_steps=3", "stages.1.max_completion_tokens=900", "training.tokens_per_micro_batch=999"]
    )
    with open_run(unreached, tmp_path / "model", tmp_path / "run", Progress()):
        pass
    recipe = load_recipe(path, ["evaluation.max_completion_tokens=60"])
    with (
        pytest.raises(ValueError, match=r"the evaluations inside training: .* evaluation\.max_completion_tokens = 60"),
        open_run(recipe, tmp_path / "model", tmp_path / "other", Progress()),
    ):
        pass


def test_prompts_of_training_are_rendered_once(tmp_path, monkeypatch):
    path, rendered = write_recipe(tmp_path, processes=1), []
    render = PreTrainedTokenizerBase.apply_chat_template

    def counting(self, conversation, **options):
        rendered.append(conversation[0]["content"])
        return render(self, conversation, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", counting)
    recipe = load_recipe(path)
    with open_run(recipe, tmp_path / "model", tmp_path / "run", Progress()) as run:
        problems = run.stream.take(recipe.data.num_problems)
        assert isinstance(run.experience, OnPolicy)
        before = len(rendered)
        assert isinstance(run.validation, Evaluator)
        asked = [p for problems in run.validation.datasets.sets.values() for p in problems]
        run.experience.sample([*problems, *asked], 1, SamplingParams(1), {})
        assert len(rendered) == before and {p.prompt for p in problems} <= set(rendered)


def test_explain_shows_the_context_and_what_exceeds_it(tmp_path):
    path = with_context(tmp_path, 100)
    shown = json.loads(deepscaler("explain", path, "--json").stdout)
    sizes = {(size["scope"], size["name"]): size["value"] for size in shown["derived"]}
    assert sizes["run", "model's context"] == 100
    # 64 + 40 tokens could exceed it, so the prompts were measured: none is that long.
    assert sizes["stage long", "longest prompt kept"] < 40
    assert not any("context" in text for text in shown["warnings"])
    too_long = ["--set", "stages.1.max_completion_tokens=99"]
    shown = json.loads(deepscaler("explain", path, "--json", *too_long).stdout)
    assert any("stage long: the longest prompt has" in text for text in shown["warnings"])
