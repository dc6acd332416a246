"""A run that stopped half way, as the tests of resuming need it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepscaler.data.sources.synthetic import generate_problems
from stopped_run import NUM_STEPS, go, load
from tiny_run import write_model, write_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, problems, a recipe over them, and a run of two steps of four."""
    directory = tmp_path_factory.mktemp("made")
    rows = [
        {"id": f"p{i}", "problem": p.prompt, "answer": p.references[0], "difficulty": p.difficulty}
        for i, p in enumerate(generate_problems(14, [2, 3], "resume"))
    ]
    (directory / "train.json").write_text(json.dumps(rows[:12]))
    (directory / "checked.json").write_text(json.dumps(rows[12:]))
    write_recipe(directory, num_steps=NUM_STEPS, processes=1, model=write_model(directory / "model"))
    text = (directory / "tiny.toml").read_text().replace('"synthetic"', f'"{directory / "train.json"}"')
    files = f'[evaluation]\nvalidation_files = ["{directory / "checked.json"}"]'
    (directory / "tiny.toml").write_text(text.replace("[evaluation]", files))
    go(load(directory, "num_steps=2"), directory / "run")
    return directory


@pytest.fixture
def stopped(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    directory = tmp_path / "stopped"
    shutil.copytree(made, directory)
    return directory
