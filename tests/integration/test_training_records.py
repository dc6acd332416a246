"""What a run writes is documented, and what is documented is written: metrics, events, alarms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config import load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.loop.run import Run
from deepscaler.observability.alarms import RULES
from deepscaler.observability.run_directory import read_metrics
from deepscaler.types import GradeItem, Outcome, RunError, Verdict
from tiny_run import write_model, write_recipe

DOCS = Path(__file__).parents[2] / "docs"
OF_EVERY_LINE = {"kind", "step", "time"}
OF_A_STEP = {"stage", "max_completion_tokens"}  # described with the line itself


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without the first two lines of each."""
    text = (DOCS / page).read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@contextmanager
def opened(path: Path, *settings: str) -> Iterator[Run]:
    model = path / "model"
    recipe = load_recipe(
        write_recipe(path, num_steps=4, every_steps=1, processes=1, model=model if model.exists() else None),
        ["stages.0.steps=1", "evaluation.during_training_problems=1", "alarms.window=2", *settings],
    )
    with open_run(recipe, model, path / "run", Progress(StringIO(), terminal=False)) as run:
        run.validation = None
        yield run


def lines(path: Path) -> list[dict[str, Any]]:
    return read_metrics(path / "run" / "metrics.jsonl")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A run that meets every kind of event: a worker is lost, it is stopped, goes on, changes stage, ends."""
    path = tmp_path_factory.mktemp("records")
    masked = "algorithm.importance_mask=icepop"
    with opened(path, masked) as first:
        grade = first.cluster.grader.grade

        def one_right(items: Sequence[GradeItem]) -> list[Verdict]:
            first.stop.requested = True
            first.cluster.notices.append("worker process 1 was started again: it died")
            return [Verdict(Outcome.CORRECT, 1.0, "1"), *grade(items)[1:]]

        first.cluster.grader.grade = one_right  # type: ignore[method-assign]
        train(first)
    with opened(path, masked) as second:
        train(second)
    return lines(path)


def test_every_metric_of_a_step_is_documented_and_every_documented_one_is_written(run: list[dict[str, Any]]) -> None:
    written = {name for row in run if row["kind"] == "step" for name in row} - OF_EVERY_LINE - OF_A_STEP
    documented = [name for cells in rows_of("metrics.md", "Glossary") for name in names(cells[0])]
    assert len(documented) == len(set(documented))
    assert written == set(documented)


def test_every_event_is_documented_and_every_documented_one_is_written(run: list[dict[str, Any]]) -> None:
    events = [row["event"] for row in run if row["kind"] == "event"]
    assert set(events) == {names(cells[0])[0] for cells in rows_of("run-directory.md", "metrics.jsonl")}
    assert [e for e in events if e != "alarm"] == ["notice", "stage_change", "stop", "resume", "finished"]


def test_the_page_lists_the_alarms_there_are_and_which_are_fatal() -> None:
    documented = {name: cells[-1] == "yes" for cells in rows_of("metrics.md", "Alarms") for name in names(cells[0])}
    assert documented == {rule.name: rule.fatal for rule in RULES}


def test_a_run_that_ends_by_an_error_says_by_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model")
    with opened(tmp_path) as broken, pytest.raises(RunError, match="the worker died"):
        monkeypatch.setattr(broken.cluster.learner, "update", lambda batches: _raise(RunError("the worker died")))
        train(broken)
    (last,) = [row for row in lines(tmp_path) if row["kind"] == "event"]
    assert (last["step"], last["event"], last["reason"]) == (0, "stop", "the worker died")


def test_a_finished_run_that_is_opened_again_stays_finished(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    for _ in range(2):
        with opened(tmp_path, "num_steps=2", "stages.0.steps=3") as again:
            train(again)
    events = [row["event"] for row in lines(tmp_path) if row["kind"] == "event"]
    assert [e for e in events if e != "alarm"] == ["finished", "resume", "finished"]


def _raise(error: Exception) -> None:
    raise error
