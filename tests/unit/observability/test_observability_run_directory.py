"""Files of a run: whole lines, whole files, and readers that bear with what a crash leaves."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from deepscaler.observability.files import write_atomically
from deepscaler.observability.rollout_metrics import rollout_stats
from deepscaler.observability.run_directory import RunDirectory, read_json, read_metrics, read_rollouts
from deepscaler.types import FinishReason, Group, IntArray, Outcome, Problem, Rollout, ScoredGroup, Verdict


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


def shown(ids: IntArray) -> str:
    return f"<prompt of {len(ids)} tokens>"


GROUPS = [
    scored_group([Outcome.CORRECT, Outcome.WRONG, Outcome.TRUNCATED], [10, 20, 60]),
    scored_group([Outcome.CORRECT, Outcome.CORRECT, Outcome.CORRECT], [10, 10, 10]),
]


def test_metrics_of_a_step() -> None:
    m = rollout_stats(GROUPS).metrics()
    assert m["reward_mean"] == pytest.approx(4 / 6)
    assert m["truncated_frac"] == m["outcome_truncated_frac"] == pytest.approx(1 / 6)
    assert (m["length_mean"], m["length_correct_mean"], m["length_wrong_mean"]) == (20, 10, 40)
    assert (m["groups_all_correct_frac"], m["groups_all_wrong_frac"]) == (0.5, 0.0)
    assert (m["num_sampled_tokens"], m["num_completions"]) == (120, 6)
    assert sum(m[f"outcome_{o.value}_frac"] for o in Outcome) == pytest.approx(1)
    assert (m["grader_cached_frac"], m["grader_longest_s"]) == (0.2, 0.25)  # of the five that were graded
    assert "length_wrong_mean" not in rollout_stats(GROUPS[1:]).metrics()
    assert "grader_cached_frac" not in rollout_stats([scored_group([Outcome.TRUNCATED] * 2, [5, 5])]).metrics()
    with pytest.raises(ValueError, match="no groups"):
        rollout_stats([])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.log_step(1, {"reward_mean": 0.5})
    directory.log_event(1, "alarm", "because", {"x": 1.0})
    directory.log_evaluation(1, {"pass@1": 0.25})
    directory.write_rollouts(1, "96", GROUPS, shown)
    kinds = [(row["kind"], row["step"]) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert kinds == [("step", 1), ("event", 1), ("evaluation", 1)]
    table = read_rollouts(tmp_path / "rollouts" / "step-000001.parquet").to_pylist()
    assert len(table) == 6
    assert table[2] | {"reward": 0.0} == {
        **{"step": 1, "stage": "96", "problem_id": "p", "prompt": "<prompt of 2 tokens>"},
        **{"references": ["2"], "difficulty": None},
        **{"source": "", "sample_index": 2, "completion": "text 2", "num_tokens": 60, "finish_reason": "length"},
        **{"outcome": "truncated", "reward": 0.0, "answer": "2", "detail": "said", "policy_version": 4},
        **{"solved": False, "reward_parts": []},
        "later_versions": [],
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


@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG, errno.EDQUOT])
def test_metrics_that_cannot_be_written_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    directory = RunDirectory(tmp_path)

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match=r"metrics\.jsonl") as caught:
        directory.log_step(1, {"reward_mean": 0.1})
    assert caught.value.errno == number


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


def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """(run directory, checkpoint with its records), after two steps and an evaluation."""
    path, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    directory = RunDirectory(path)
    for step in (1, 2):
        directory.write_rollouts(step, "96", GROUPS, shown)
        directory.log_step(step, {"reward_mean": 0.5})
    samples = path / "evaluations" / "step-000002" / "samples.parquet"
    samples.parent.mkdir(parents=True)
    samples.write_bytes(b"samples")
    directory.remember(samples)
    checkpoint.mkdir()
    directory.write_records(checkpoint)
    directory.log_step(3, {"reward_mean": 0.75})  # after the checkpoint: no part of its record
    return path, checkpoint


def test_what_is_as_it_was_is_no_damage(tmp_path: Path) -> None:
    path, checkpoint = recorded(tmp_path)
    assert RunDirectory(path).check_records(checkpoint) == []


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("metrics.jsonl", "metrics.jsonl differs from its checksum"),
        ("rollouts/step-000001.parquet", "rollouts/step-000001.parquet differs from its checksum"),
        ("evaluations/step-000002/samples.parquet", "step-000002/samples.parquet differs from its checksum"),
    ],
)
def test_a_changed_byte_is_found(tmp_path: Path, file: str, words: str) -> None:
    path, checkpoint = recorded(tmp_path)
    content = bytearray((path / file).read_bytes())
    content[3] ^= 1
    (path / file).write_bytes(content)
    directory = RunDirectory(path)
    assert directory.check_records(checkpoint) == [words]
    again = tmp_path / "again"
    again.mkdir()
    directory.write_records(again)  # the record of what was written stays, so the damage shows again
    expected = [] if file == "metrics.jsonl" else [words]
    assert RunDirectory(path).check_records(again) == expected


def test_missing_files_and_lines_are_found(tmp_path: Path) -> None:
    path, checkpoint = recorded(tmp_path)
    (path / "rollouts" / "step-000002.parquet").unlink()
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text(lines[0])
    missing, cut = RunDirectory(path).check_records(checkpoint)
    assert missing == "rollouts/step-000002.parquet is missing"
    assert cut.startswith(f"metrics.jsonl holds {len(lines[0])} bytes instead of ")


def test_a_run_directory_is_opened_without_what_killed_processes_left(tmp_path: Path) -> None:
    left = [
        tmp_path / ".recipe.json.77.tmp",
        tmp_path / "rollouts" / ".step-000001.parquet.77.tmp",
        tmp_path / "evaluations" / ".held_out.json.77.tmp",
        tmp_path / "evaluations" / "step-000001" / ".samples.parquet.77.tmp",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    RunDirectory(tmp_path)
    assert not any(path.exists() for path in left)


def test_metrics_and_rollouts_reach_the_device_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.write_rollouts(1, "96", GROUPS, shown)
    directory.log_step(1, {"reward_mean": 0.5})
    (tmp_path / "run" / "evaluations").mkdir()
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    directory.sync()
    run = tmp_path / "run"
    expected = {run, run / "metrics.jsonl", run / "rollouts", run / "evaluations"}
    assert set(synced) == {str(path) for path in expected}


def test_a_damaged_rollouts_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.parquet"
    with pytest.raises(FileNotFoundError):
        read_rollouts(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"step-000001\.parquet: not a readable Parquet file"):
        read_rollouts(path)


def test_brackets_nested_without_end_are_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_json(path)
