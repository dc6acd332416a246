"""Every computing command says what it does before it loads what takes seconds to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deepscaler.config import load_recipe
from shared_data import shared

# The command up to its first heavy import, which is named and ends it. Finders are asked at each import.
HARNESS = """
import os
import sys
from importlib.abc import MetaPathFinder

HEAVY = {"torch", "transformers", "vllm", "numba", "scipy", "pyarrow", "uvicorn", "datasets"}

class Recorder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            print(f"importing {name}", flush=True)
            os._exit(0)

sys.meta_path.insert(0, Recorder())
sys.argv = ["deepscaler", *sys.argv[1:]]
from deepscaler.cli.main import main
main()
"""
WITHOUT_VLLM = """
from deepscaler.engines.vllm import installation
installation.vllm_version = lambda: None
"""
ROOT = Path(__file__).parents[2]
RECIPE = "recipes/quickstart.toml"


def start(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + HARNESS, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["quickstart", RECIPE], f"loading PyTorch for the quickstart by {RECIPE}"),
        (["sft", RECIPE], f"loading PyTorch to make the base model of {RECIPE}"),
        (["train", RECIPE, "--run-dir", "no-run"], f"loading PyTorch to train by {RECIPE} in no-run"),
        (["serve", "some-model"], "loading PyTorch to serve some-model"),
        (["eval", "some-model", "--recipe", RECIPE], f"evaluating some-model on the sets of {RECIPE}"),
    ],
)
def test_a_command_speaks_before_its_heavy_imports(arguments: list[str], line: str) -> None:
    said = start(*arguments)
    assert (said.returncode, said.stderr) == (0, "")
    first, second = said.stdout.splitlines()
    assert first == line, "a heavy import came before the first line"
    assert second.startswith("importing ")


def test_an_evaluation_of_a_suite_speaks_before_its_heavy_imports() -> None:
    said = start("eval", "some-model", "--suite", "aime24", "--benchmarks", str(shared("data", "benchmarks")))
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines()[0] == "evaluating some-model"


def test_a_mistake_in_a_recipe_is_told_before_anything_heavy_is_imported() -> None:
    said = start("train", RECIPE, "--run-dir", "no-run", "--set", "seed=-1")
    assert said.returncode == 2
    assert said.stdout == ""
    assert "seed" in said.stderr


def test_a_directory_of_another_recipe_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / RECIPE, ["optimizer.learning_rate=0.5"]).model_dump(mode="json")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    said = start("train", RECIPE, "--run-dir", str(tmp_path))
    assert (said.returncode, said.stdout) == (1, "")
    assert "was started with other settings" in said.stderr and "optimizer.learning_rate (0.5 ->" in said.stderr


def test_an_origin_that_cannot_be_read_is_refused_before_anything_heavy_is_imported() -> None:
    said = start("train", RECIPE, "--run-dir", "no-run", "--from", "run@last")
    assert (said.returncode, said.stdout) == (1, "")
    assert "expected RUN or RUN@STEP" in said.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["quickstart", RECIPE, "--set", 'rollout.engine="vllm"'],
        ["train", RECIPE, "--run-dir", "no-run", "--set", 'rollout.engine="vllm"'],
        ["eval", "some-model", "--engine", "vllm", "--suite", "aime24", "--benchmarks", "no-benchmarks"],
    ],
)
def test_vllm_that_is_not_installed_is_refused_before_a_base_is_made_or_anything_is_loaded(
    arguments: list[str],
) -> None:
    said = start(*arguments, before=WITHOUT_VLLM)
    assert (said.returncode, said.stdout) == (1, "")
    assert "vLLM is not installed in this environment" in said.stderr and "make .venv-vllm" in said.stderr
