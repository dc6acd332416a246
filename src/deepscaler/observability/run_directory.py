"""Writing and reading a run directory; docs/run-directory.md is the contract."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepscaler.json_text import parse_json
from deepscaler.observability.files import write_atomically
from deepscaler.types import ScoredGroup

if TYPE_CHECKING:
    import pyarrow

METRICS_FILE = "metrics.jsonl"


class RunDirectory:
    """The writer. Every line of metrics.jsonl is one write of one whole line: readers never see half."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "rollouts").mkdir(parents=True, exist_ok=True)
        self._metrics = path / METRICS_FILE
        _end_torn_line(self._metrics)

    def write_recipe(self, recipe: Mapping[str, Any]) -> None:
        self._write_json("recipe.json", recipe)

    def write_run_info(self, info: Mapping[str, Any]) -> None:
        self._write_json("run.json", info)

    def log_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._append({"kind": "step", "step": step, **metrics})

    def log_evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        self._append({"kind": "evaluation", "step": step, **result})

    def log_event(self, step: int, event: str, reason: str, figures: Mapping[str, float]) -> None:
        self._append({"kind": "event", "step": step, "event": event, "reason": reason, "figures": dict(figures)})

    def write_rollouts(self, step: int, stage: str, groups: Sequence[ScoredGroup]) -> None:
        """All completions of a step with their verdicts, one Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [row for scored in groups for row in _rollout_rows(step, stage, scored)]
        table = pa.Table.from_pylist(rows, schema=_rollout_schema())
        target = self.path / "rollouts" / f"step-{step:06d}.parquet"
        write_atomically(target, lambda path: pq.write_table(table, path, compression="zstd"))

    def _append(self, row: dict[str, Any]) -> None:
        line = (json.dumps({**row, "time": time.time()}, allow_nan=False) + "\n").encode()
        descriptor = os.open(self._metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(descriptor, line)
        finally:
            os.close(descriptor)
        if written < len(line):  # a disk that fills up in the middle of a line raises nothing by itself
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._metrics))

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, indent=1) + "\n"
        write_atomically(self.path / name, lambda path: path.write_text(text))


def _end_torn_line(path: Path) -> None:
    """A crash may have left half a line at the end; finish it, so that the next one starts on its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _rollout_rows(step: int, stage: str, scored: ScoredGroup) -> list[dict[str, Any]]:
    problem = scored.group.problem
    return [
        {
            "step": step,
            "stage": stage,
            "problem_id": problem.id,
            "prompt": problem.prompt,
            "references": list(problem.references),
            "difficulty": problem.difficulty,
            "source": problem.source,
            "sample_index": rollout.sample_index,
            "completion": text,
            "num_tokens": rollout.num_tokens,
            "finish_reason": rollout.finish_reason.value,
            "outcome": verdict.outcome.value,
            "reward": verdict.reward,
            "answer": verdict.answer,
            "detail": verdict.detail,
            "policy_version": rollout.policy_version,
        }
        for rollout, text, verdict in zip(scored.group.rollouts, scored.texts, scored.verdicts, strict=True)
    ]


def _rollout_schema() -> Any:
    """The columns in the order of docs/run-directory.md."""
    import pyarrow as pa

    return pa.schema(
        [
            ("step", pa.int64()),
            ("stage", pa.string()),
            ("problem_id", pa.string()),
            ("prompt", pa.string()),
            ("references", pa.list_(pa.string())),
            ("difficulty", pa.float64()),
            ("source", pa.string()),
            ("sample_index", pa.int32()),
            ("completion", pa.string()),
            ("num_tokens", pa.int32()),
            ("finish_reason", pa.string()),
            ("outcome", pa.string()),
            ("reward", pa.float32()),
            ("answer", pa.string()),
            ("detail", pa.string()),
            ("policy_version", pa.int64()),
        ]
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines in order of step. Of steps and evaluations written twice (after a resume) the last counts.

    Torn lines are skipped. Events are all kept. Raises FileNotFoundError.
    """
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                row = parse_json(line)
            except ValueError:  # JSON and Unicode errors alike: a line torn by a crash
                continue
            if not isinstance(row, dict) or "kind" not in row or "step" not in row:
                continue
            unique = () if row["kind"] in ("step", "evaluation") else (number,)
            latest[(row["kind"], row["step"], *unique)] = row
    return sorted(latest.values(), key=lambda row: row["step"])


def read_rollouts(path: Path) -> pyarrow.Table:
    """One step's rollouts, a row per completion. Raises FileNotFoundError."""
    import pyarrow.parquet as pq

    return pq.read_table(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no file. Raises ValueError for anything else."""
    if not path.is_file():
        return None
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it or move it away") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, it holds a {type(value).__name__}")
    return value
