"""Training over Ray: the same run as on this machine, bit for bit, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from pyarrow.parquet import read_table
from safetensors.torch import load_file
from torch import Tensor

from deepscaler.cluster.ray_remote import RayRemote
from deepscaler.cluster.ray_session import Local, ray_session
from deepscaler.loop.progress import Progress
from ray_runs import NUM_STEPS, record_workers, run, run_on_this_machine
from tiny_run import final_digests, write_recipe

TWO = ("cluster.kind=ray", "cluster.learner_ranks=2", "cluster.samplers=2")


@pytest.fixture(scope="module", autouse=True)
def started() -> Iterator[None]:
    with ray_session("local", Local(num_cpus=4, num_gpus=0, object_store_bytes=80 * 2**20)):
        yield


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), processes=1)


@pytest.fixture(scope="module")
def local(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the same run on this machine, one process."""
    return run_on_this_machine(recipe, tmp_path_factory.mktemp("local") / "run")


def test_two_ranks_and_two_samplers_consume_the_same_and_differ_by_rounding(
    recipe: Path, local: Path, tmp_path: Path
) -> None:
    run(recipe, tmp_path / "run", Progress(StringIO(), terminal=False), *TWO)
    for step in range(1, NUM_STEPS + 1):
        mine, theirs = (sampled(path, step) for path in (tmp_path / "run", local))
        assert mine == theirs
    mine, theirs = (weights(path) for path in (tmp_path / "run", local))
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 2e-5


def sampled(path: Path, step: int) -> list[tuple[str, str]]:
    """Problem and completion of every rollout of a step."""
    rows = read_table(path / "rollouts" / f"step-{step:06d}.parquet").select(["problem_id", "completion"]).to_pylist()
    return [(row["problem_id"], row["completion"]) for row in rows]


def weights(path: Path) -> dict[str, Tensor]:
    return load_file(path / "checkpoints" / f"step-{NUM_STEPS:06d}" / "model.safetensors")


class Killer(Progress):
    """Kills the sampler while it samples for the first time, and the learner after the third step."""

    def __init__(self, out: StringIO, workers: dict[str, RayRemote]) -> None:
        super().__init__(out, terminal=False)
        self._workers, self._num_seen, self._killed = workers, 0, set[str]()

    def on_rollout(self, rollout) -> None:
        super().on_rollout(rollout)
        self._num_seen += 1
        if self._num_seen == 1:
            self._kill("sampler 0")

    def end_step(self, step, stats, sample_s) -> None:
        super().end_step(step, stats, sample_s)
        if step == 3:
            self._kill("learner rank 0")

    def _kill(self, role: str) -> None:
        if role not in self._killed:
            self._killed.add(role)
            os.kill(self._workers[role].pid, signal.SIGKILL)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> dict[str, RayRemote]:
    return record_workers(monkeypatch)


def test_one_rank_and_one_sampler_train_as_this_machine_does_though_both_are_killed(
    recipe: Path, local: Path, tmp_path: Path, workers: dict[str, RayRemote]
) -> None:
    out = StringIO()
    finished = run(recipe, tmp_path / "run", Killer(out, workers), "cluster.kind=ray")
    assert finished.step == NUM_STEPS
    assert final_digests(tmp_path / "run", NUM_STEPS) == final_digests(local, NUM_STEPS)
    assert "note: sampler 0 was started again: sampler 0 died during " in out.getvalue()
    assert "learner rank 0 died" in out.getvalue() and "restart 1 of 3" in out.getvalue()
    assert f"continuing after step 2 from {tmp_path}" in out.getvalue()
    assert not (tmp_path / "run" / "published").exists()
