"""On the real training and benchmark files the known duplicates and overlaps are found, and little else."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.load import load_benchmark
from deepscaler.data.prepare.preparation import Preparation, Settings, prepare
from deepscaler.data.sources.layouts import Columns
from prepared_rows import tools
from shared_data import shared


@pytest.fixture(scope="module")
def real() -> Preparation:
    train, tests = shared("data", "train"), shared("data", "benchmarks")
    loaded = [load_benchmark(name, tests) for name in COMPETITION]
    return prepare([train / "aime.json", train / "math.json"], loaded, Settings(Columns()), tools(readable=bool))


def test_the_real_duplicates_are_found(real: Preparation) -> None:
    """math.json repeats 356 rows of aime.json word for word up to typesetting, and about a hundred reworded."""
    reasons = {step.name: step.reasons for step in real.steps}
    assert reasons["lint"] == {"missing_answer": 2, "empty_answer": 2}
    table = real.compared.to_pylist()
    pairs = {(Path(table[d.first]["file"]).stem, Path(table[d.second]["file"]).stem) for d in real.duplicates}
    crossing = {
        d.second for d in real.duplicates
        if "aime" in table[d.first]["file"] and "math.json" in table[d.second]["file"]
    }  # fmt: skip
    assert ("aime", "math") in pairs
    assert len(crossing) >= 430


def test_the_real_contamination_is_found_and_little_else(real: Preparation) -> None:
    """All of these were read beside each other; no other training row shares a problem with a benchmark."""
    found: dict[str, set[str]] = {}
    for finding in real.findings:
        if finding.contaminates:
            found.setdefault(finding.benchmark, set()).add(finding.problem.id)
    numbers = {name: {int(identity.split("/")[1]) for identity in ids} for name, ids in found.items()}
    assert numbers == {
        "math500": {80, 101, 110, 126, 285, 292, 352, 412, 475, 489},
        "olympiadbench": {346, 522, 564},
    }
