"""No stage of a step writes into what an earlier stage made: rollouts, groups and samples stay as they were."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepscaler.config import load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.progress import Progress
from deepscaler.toy.supervised import next_batch
from deepscaler.training.cross_entropy import supervised_sample
from deepscaler.types import TrainSample
from tiny_run import write_model, write_recipe

ALGORITHMS = {
    "soft penalty, KL, two updates": [],
    "truncated masked": ["algorithm.truncated='mask'", "algorithm.soft_penalty_tokens=0"],
    "importance, entropy": ["algorithm.importance_cap=2.0", "algorithm.entropy_coefficient=0.01"],
}


def image(stage: Any) -> bytes:
    """Every array and field of it: equal before and after where nothing wrote into it."""
    return pickle.dumps(stage)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("frozen") / "model")


@pytest.mark.parametrize("settings", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_step_leaves_its_stages_as_they_were_made(tmp_path: Path, model: Path, settings: list[str]) -> None:
    recipe = load_recipe(write_recipe(tmp_path, processes=1, model=model), settings)
    with open_run(recipe, model, tmp_path / "run", Progress(StringIO(), terminal=False)) as run:
        run.begin()
        step = run.begin_step()
        collected = run.experience.collect(step)
        graded = image(collected)
        mini_batches = run.make_samples(collected.trained, step)
        samples = image(mini_batches)
        stats = run.cluster.learner.update(mini_batches)
        weights = run.publish()
        run.end_step(step, collected, mini_batches, stats, weights)
        assert any(len(sample.completion_ids) for batch in mini_batches for sample in batch)
        assert image(collected) == graded
        assert image(mini_batches) == samples


def test_supervised_batches_leave_their_samples_as_they_were() -> None:
    rng = np.random.default_rng(0)
    made = [
        supervised_sample(rng.integers(0, 9, 3).astype(np.int32), rng.integers(0, 9, n).astype(np.int32))
        for n in (4, 7, 5, 9)
    ]
    before = image(made)

    def endless() -> Iterator[TrainSample]:
        while True:
            yield from made

    next_batch(endless(), 20)
    assert image(made) == before
