"""Machines that leave a Ray cluster while a run trains, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from deepscaler.cluster import ray_placement
from deepscaler.cluster.ray_remote import RayRemote
from deepscaler.loop.progress import Progress
from deepscaler.types import RunError
from ray_runs import NUM_STEPS, Machines, ray_machines, record_workers, run, run_on_this_machine
from tiny_run import final_digests, write_recipe


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with ray_machines(3) as there:
        yield there


class Remover(Progress):
    """Takes the sampler's machine away, after the first step and after the second."""

    def __init__(self, out: StringIO, machines: Machines, workers: dict[str, RayRemote]) -> None:
        super().__init__(out, terminal=False)
        self._machines, self._workers = machines, workers

    def end_step(self, step, stats, sample_s) -> None:
        super().end_step(step, stats, sample_s)
        if self._machines.count == 4 - step:
            self._machines.remove_under(self._workers["sampler 0"])


def test_another_machine_takes_over_and_without_one_the_run_ends_and_continues_later(
    tmp_path: Path, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_placement, "REPLACE_LIMIT_S", 3.0)
    recipe, workers, out = write_recipe(tmp_path, processes=1), record_workers(monkeypatch), StringIO()
    remover = Remover(out, machines, workers)
    with pytest.raises(RunError, match=r"(?s)cannot be sampled: no sampler is left: its machine left .* continue"):
        run(recipe, tmp_path / "run", remover, "cluster.kind=ray")
    assert "note: sampler 0 was started again: sampler 0 died during" in out.getvalue()
    with pytest.raises(ValueError, match=r"the Ray cluster is too small: the recipe needs 2 CPU cores .* has 1"):
        run(recipe, tmp_path / "run", Progress(out, terminal=False), "cluster.kind=ray")
    machines.add()
    assert run(recipe, tmp_path / "run", Progress(out, terminal=False), "cluster.kind=ray").step == NUM_STEPS
    assert "continuing after step 2" in out.getvalue()
    local = run_on_this_machine(recipe, tmp_path / "local")
    assert final_digests(tmp_path / "run", NUM_STEPS) == final_digests(local, NUM_STEPS)
