"""Files of a run: whole lines, whole files, and readers that bear with what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from deepscaler.observability.clock import StepClock
from deepscaler.observability.environment import run_info
from deepscaler.observability.files import write_atomically
from deepscaler.observability.rollout_metrics import rollout_metrics
from deepscaler.observability.run_directory import RunDirectory, read_json, read_metrics, read_rollouts
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup, Verdict


def scored_group(outcomes: list[Outcome], lengths: list[int]) -> ScoredGroup:
    def rollout(index: int, length: int) -> Rollout:
        ids = np.zeros(length, np.int32)
        reason = FinishReason.LENGTH if outcomes[index] is Outcome.TRUNCATED else FinishReason.STOP
        return Rollout("p", index, ids[:2], ids, np.zeros(length, np.float32), reason, 4)

    group = Group(Problem("p", "1+1?", ("2",)), tuple(rollout(i, n) for i, n in enumerate(lengths)))
    verdicts = tuple(
        Verdict(o, float(o is Outcome.CORRECT), "2", "said", 0.25 * (o is Outcome.WRONG), o is Outcome.WRONG)
        for o in outcomes
    )
    return ScoredGroup(group, tuple(f"text {i}" for i in range(len(lengths))), verdicts)


GROUPS = [
    scored_group([Outcome.CORRECT, Outcome.WRONG, Outcome.TRUNCATED], [10, 20, 60]),
    scored_group([Outcome.CORRECT, Outcome.CORRECT, Outcome.CORRECT], [10, 10, 10]),
]


def test_metrics_of_a_step() -> None:
    m = rollout_metrics(GROUPS)
    assert m["reward_mean"] == pytest.approx(4 / 6)
    assert m["truncated_frac"] == m["outcome_truncated_frac"] == pytest.approx(1 / 6)
    assert (m["length_mean"], m["length_correct_mean"], m["length_wrong_mean"]) == (20, 10, 40)
    assert (m["groups_all_correct_frac"], m["groups_all_wrong_frac"]) == (0.5, 0.0)
    assert (m["num_sampled_tokens"], m["num_completions"]) == (120, 6)
    assert sum(m[f"outcome_{o.value}_frac"] for o in Outcome) == pytest.approx(1)
    assert (m["grader_cached_frac"], m["grader_longest_s"]) == (0.2, 0.25)  # of the five that were graded
    assert "length_wrong_mean" not in rollout_metrics(GROUPS[1:])
    assert "grader_cached_frac" not in rollout_metrics([scored_group([Outcome.TRUNCATED] * 2, [5, 5])])
    with pytest.raises(ValueError, match="no groups"):
        rollout_metrics([])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.log_step(1, {"reward_mean": 0.5})
    directory.log_event(1, "alarm", "because", {"x": 1.0})
    directory.log_evaluation(1, {"pass@1": 0.25})
    directory.write_rollouts(1, "96", GROUPS)
    kinds = [(row["kind"], row["step"]) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert kinds == [("step", 1), ("event", 1), ("evaluation", 1)]
    table = read_rollouts(tmp_path / "rollouts" / "step-000001.parquet").to_pylist()
    assert len(table) == 6
    assert table[2] | {"reward": 0.0} == {
        **{"step": 1, "stage": "96", "problem_id": "p", "prompt": "1+1?", "references": ["2"], "difficulty": None},
        **{"source": "", "sample_index": 2, "completion": "text 2", "num_tokens": 60, "finish_reason": "length"},
        **{"outcome": "truncated", "reward": 0.0, "answer": "2", "detail": "said", "policy_version": 4},
    }


def test_of_a_step_written_twice_the_last_counts_and_torn_lines_are_skipped(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.log_step(1, {"reward_mean": 0.1})
    directory.log_step(2, {"reward_mean": 0.2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 3, "rew')
    directory = RunDirectory(tmp_path)  # the resumed run
    directory.log_step(2, {"reward_mean": 0.25})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["reward_mean"]) for row in rows] == [(1, 0.1), (2, 0.25)]


def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunDirectory(tmp_path).log_step(1, {"loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path)
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data) // 2)
    with pytest.raises(OSError, match=r"metrics\.jsonl") as caught:
        directory.log_step(1, {"reward_mean": 0.1})
    assert caught.value.errno == errno.ENOSPC


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert read_json(path) is None
    path.write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_json(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="should hold a JSON object"):
        read_json(path)


def test_the_clock_adds_up_phases() -> None:
    clock = StepClock()
    for _ in range(2):
        with clock.phase("sample"):
            pass
    metrics = clock.metrics()
    assert set(metrics) == {"sample_s", "step_s"}
    assert 0 <= metrics["sample_s"] <= metrics["step_s"]


def test_the_run_says_what_it_ran_on() -> None:
    info = run_info("digest", "model")
    text = json.dumps(info)
    assert "torch" in text and "digest" in text and "python" in text
