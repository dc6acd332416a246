"""The recipe that the README shows is one: it loads, without a warning, and reads the problem shown beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepscaler.config.explain import explain
from deepscaler.config.load import resolve
from deepscaler.data.sources.load import load_problems

README = (Path(__file__).parents[3] / "README.md").read_text()


def test_the_recipe_of_the_readme_loads_with_the_problem_shown_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (row,) = re.findall(r"`(\{\"problem\".*?\})`", README)
    Path("mine.toml").write_text(text)
    Path("problems.jsonl").write_text(row + "\n")
    resolved = resolve(Path("mine.toml"))
    assert explain(resolved).warnings == ()
    (problem,) = load_problems("problems.jsonl")
    assert problem.references == ("4",)
