"""The loop on fakes of learner, sampler and grader: what a step does, in which order, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from child_pythonpath import PYTHONPATH
from deepscaler.loop.loop import train
from deepscaler.loop.publishing import Canary
from deepscaler.loop.run import Run
from deepscaler.observability.run_directory import read_metrics
from deepscaler.types import FloatArray, Request, Rollout, RunError, SamplingParams, TrainSample
from fake_workers import FakeLearner, FakeSampler, fake_run, recipe


def learner_of(run: Run) -> FakeLearner:
    assert isinstance(run.cluster.learner, FakeLearner)
    return run.cluster.learner


def rows(path: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == kind]


def test_a_step_samples_grades_updates_and_publishes_in_this_order(tmp_path: Path) -> None:
    sampler = FakeSampler()
    run = fake_run(tmp_path, recipe(num_steps=2), sampler)
    assert train(run) == 2
    assert sampler.calls == ["load_weights"] + ["generate", "release_memory", "load_weights"] * 2
    first, second = learner_of(run).updates
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [12]
    assert sum(sample.advantage for sample in first[0]) == pytest.approx(0, abs=1e-6)
    assert run.weights.version == sampler.version == 2


def test_every_step_leaves_its_row_its_rollouts_and_checkpoints_where_they_are_due(tmp_path: Path) -> None:
    run = fake_run(tmp_path, recipe(num_steps=5))
    train(run)
    assert [(row["step"], row["stage"]) for row in rows(tmp_path, "step")] == [
        (1, "short"),
        (2, "short"),
        (3, "long"),
        (4, "long"),
        (5, "long"),
    ]
    assert len(list((tmp_path / "rollouts").glob("*.parquet"))) == 5
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {"step-000000", "step-000002", "step-000004", "step-000005"} <= kept
    assert [row["event"] for row in rows(tmp_path, "event") if row["event"] != "alarm"] == ["stage_change", "finished"]


def test_a_new_stage_restarts_what_it_names_and_has_its_own_budget(tmp_path: Path) -> None:
    run = fake_run(tmp_path, recipe(num_steps=3))
    train(run)
    assert learner_of(run).stages_begun == [(True, False)]
    lengths = [max(len(s.completion_ids) for s in update[0]) for update in learner_of(run).updates]
    assert lengths == [6, 6, 10]


def test_weights_that_do_not_arrive_stop_the_run_at_the_first_publish(tmp_path: Path) -> None:
    run = fake_run(tmp_path, recipe(), FakeSampler(takes_over=False))
    with pytest.raises(RunError, match="after publishing version 1 the engine holds version 0"):
        train(run)
    assert rows(tmp_path, "step") == []


def test_after_every_publish_the_canary_is_compared_and_its_figure_is_a_metric(tmp_path: Path) -> None:
    sampler = FakeSampler()
    run = fake_run(tmp_path, recipe(num_steps=2), sampler)
    run.canary = Canary(np.array([2, 3], np.int32), 1.0, learner_of(run).logprobs, limit=0.02)
    train(run)
    assert [row["canary_logprob_difference"] for row in rows(tmp_path, "step")] == [0.0, 0.0]
    assert sampler.calls[-3:] == ["release_memory", "load_weights", "generate"]


def test_an_engine_that_computes_another_policy_with_the_same_weights_stops_the_run(tmp_path: Path) -> None:
    run = fake_run(tmp_path, recipe())
    run.canary = Canary(np.array([2, 3], np.int32), 1.0, far_off, limit=0.02)
    with pytest.raises(RunError, match=r"disagree about a fixed prompt by 0\.5 nats a token \(limit 0\.02\)"):
        train(run)
    assert rows(tmp_path, "step") == []


class OneOfTwo(FakeSampler):
    """Two engines with the same weights, of which the second computes with others."""

    def generate_on_each(self, request: Request, params: SamplingParams) -> list[tuple[str, Rollout]]:
        (rollout,) = self.generate([request], params)
        off = replace(rollout, rollout_logprobs=rollout.rollout_logprobs - np.float32(0.5))
        return [("vLLM server 0", rollout), ("vLLM server 1", off)]


def test_one_engine_of_a_group_that_computes_another_policy_stops_the_run_and_is_named(tmp_path: Path) -> None:
    run = fake_run(tmp_path, recipe(), OneOfTwo())
    calls: list[int] = []

    def counted_logprobs(samples: Sequence[TrainSample]) -> list[FloatArray]:
        calls.append(len(samples))
        return learner_of(run).logprobs(samples)

    run.canary = Canary(np.array([2, 3], np.int32), 1.0, counted_logprobs, limit=0.02)
    with pytest.raises(RunError, match=r"learner and vLLM server 1 disagree about a fixed prompt by 0\.5 nats"):
        train(run)
    assert calls == [1]  # equal completions are computed once
    run.canary = replace(run.canary, limit=0.6)
    assert run.canary.check(run.cluster.sampler, 1) == {"canary_logprob_difference": pytest.approx(0.5)}


def far_off(samples: Sequence[TrainSample]) -> list[FloatArray]:
    return [np.full(len(sample.completion_ids), -1.5, np.float32) for sample in samples]


def test_a_request_to_stop_ends_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    run = fake_run(tmp_path, recipe(num_steps=9))
    end_step = type(run).end_step

    def stop_after_first(self: Run, *arguments: Any) -> None:
        self.stop.requested = True
        end_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "end_step", stop_after_first)
        assert train(run) == 1
    assert (tmp_path / "checkpoints" / "step-000001").is_dir()
    assert rows(tmp_path, "event")[-1]["event"] == "stop"


def test_the_loop_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fake_workers import fake_run, recipe;"
        "from deepscaler.loop.loop import train;"
        f"train(fake_run(Path({str(tmp_path)!r}), recipe()));"
        "print([m for m in ('torch', 'transformers', 'ray', 'vllm') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == "[]\n", done.stderr
