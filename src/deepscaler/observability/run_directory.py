"""Writing and reading a run directory; docs/run-directory.md is the contract."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepscaler.json_text import parse_json
from deepscaler.observability.counts import counted
from deepscaler.observability.files import Fingerprint, fingerprint, fsync, remove_temporaries, write_atomically
from deepscaler.observability.part_metrics import PartFailure
from deepscaler.types import IntArray, ScoredGroup

if TYPE_CHECKING:
    import pyarrow

METRICS_FILE = "metrics.jsonl"
RECIPE_FILE = "recipe.json"
RECORDS_FILE = "records.json"
REWARD_FAILURES_FILE = "reward_failures.jsonl"
MAX_FAILURES_BYTES = 2**24  # of that file
MAX_DETAIL_CHARACTERS = 200
MAX_STEP = 2**53  # beyond it, floats skip numbers


class RunDirectory:
    """The one writer. Every line of metrics.jsonl is one write of one whole line: readers never see half.

    It remembers size and SHA-256 of what it wrote; a checkpoint keeps them, so that damage is found on resume.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "rollouts").mkdir(parents=True, exist_ok=True)
        fsync(path.parent)
        for directory in (path, path / "rollouts", path / "evaluations", *(path / "evaluations").glob("*/")):
            remove_temporaries(directory)
        self._metrics = path / METRICS_FILE
        self._records: dict[str, Fingerprint] = {}
        _end_torn_line(self._metrics)

    def write_recipe(self, recipe: Mapping[str, object]) -> None:
        self._write_json(RECIPE_FILE, recipe)

    def write_run_info(self, info: Mapping[str, object]) -> None:
        self._write_json("run.json", info)

    def log_step(self, step: int, metrics: Mapping[str, object]) -> None:
        self._append({"kind": "step", "step": step, **metrics})

    def log_evaluation(self, step: int, result: Mapping[str, object]) -> None:
        self._append({"kind": "evaluation", "step": step, **result})

    def log_event(self, step: int, event: str, reason: str, figures: Mapping[str, float]) -> None:
        self._append({"kind": "event", "step": step, "event": event, "reason": reason, "figures": dict(figures)})

    def write_rollouts(
        self, step: int, stage: str, groups: Sequence[ScoredGroup], decode: Callable[[IntArray], str]
    ) -> None:
        """All completions of a step with their verdicts, one Parquet file.

        decode: prompt ids to the text that the model saw, with the special tokens of the template.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [row for scored in groups for row in _rollout_rows(step, stage, scored, decode)]
        table = pa.Table.from_pylist(rows, schema=_rollout_schema())
        target = self.path / "rollouts" / f"step-{step:06d}.parquet"
        write_atomically(target, lambda path: pq.write_table(table, path, compression="zstd"))
        self.remember(target)

    def log_reward_failures(self, step: int, failures: Sequence[PartFailure]) -> None:
        """One line for each kind of failure of a reward function in a step, with its traceback."""
        path = self.path / REWARD_FAILURES_FILE
        if not failures or (path.exists() and path.stat().st_size > MAX_FAILURES_BYTES):
            return
        lines = [json.dumps({"step": step, **asdict(failure)}) + "\n" for failure in failures]
        with path.open("a", encoding="ascii") as file:
            file.write("".join(lines))

    def remember(self, file: Path) -> None:
        """Record the content that a file of this directory has now."""
        self._records[str(file.relative_to(self.path))] = fingerprint(file)

    def sync(self) -> None:
        """Let everything written so far reach the device: a checkpoint must never be ahead of its metrics."""
        for path in (self._metrics, self.path / "rollouts", self.path / "evaluations", self.path):
            if path.exists():
                fsync(path)

    def write_records(self, checkpoint: Path) -> None:
        """Put size and SHA-256 of every file, and of metrics.jsonl so far, into a checkpoint."""
        records = dict(self._records)
        if self._metrics.exists():
            records[METRICS_FILE] = fingerprint(self._metrics)
        (checkpoint / RECORDS_FILE).write_text(json.dumps(records, indent=1) + "\n")

    def check_records(self, checkpoint: Path) -> list[str]:
        """Files that are no longer what they were when the checkpoint was written, and how; goes on with its record."""
        stored = read_json(checkpoint / RECORDS_FILE) or {}
        records = {name: Fingerprint(*values) for name, values in stored.items()}
        damaged = [text for name, found in records.items() if (text := _damage(self.path / name, found))]
        records.pop(METRICS_FILE, None)
        self._records = records
        return damaged

    def _append(self, row: dict[str, object]) -> None:
        line = (json.dumps({**row, "time": time.time()}, allow_nan=False) + "\n").encode()
        descriptor = os.open(self._metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            written = os.write(descriptor, line)
        except OSError as error:  # of a descriptor, so it names no file
            raise OSError(error.errno, error.strerror, str(self._metrics)) from error
        finally:
            os.close(descriptor)
        if written < len(line):  # a disk that fills up in the middle of a line raises nothing by itself
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._metrics))

    def _write_json(self, name: str, value: Mapping[str, object]) -> None:
        text = json.dumps(value, indent=1) + "\n"
        write_atomically(self.path / name, lambda path: path.write_text(text))


def _damage(file: Path, recorded: Fingerprint) -> str | None:
    """metrics.jsonl has grown since, so only what it held then is compared."""
    name = f"{file.parent.name}/{file.name}" if file.name != METRICS_FILE else file.name
    try:
        found = fingerprint(file, recorded.num_bytes if file.name == METRICS_FILE else None)
    except FileNotFoundError:
        return f"{name} is missing"
    if found == recorded:
        return None
    if found.num_bytes != recorded.num_bytes:
        return f"{name} holds {counted(found.num_bytes, 'byte')} instead of {recorded.num_bytes}"
    return f"{name} differs from its checksum"


def _end_torn_line(path: Path) -> None:
    """A crash may have left half a line at the end; finish it, so that the next one starts on its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _rollout_rows(
    step: int, stage: str, scored: ScoredGroup, decode: Callable[[IntArray], str]
) -> list[dict[str, object]]:
    problem = scored.group.problem
    prompt = decode(scored.group.rollouts[0].prompt_ids)  # the same for the whole group
    return [
        {
            "step": step,
            "stage": stage,
            "problem_id": problem.id,
            "prompt": prompt,
            "references": list(problem.references),
            "difficulty": problem.difficulty,
            "source": problem.source,
            "sample_index": rollout.sample_index,
            "completion": text,
            "num_tokens": rollout.num_tokens,
            "finish_reason": rollout.finish_reason.value,
            "outcome": verdict.outcome.value,
            "reward": verdict.reward if not scored.composed else earned.value,
            "solved": earned.solved,
            "reward_parts": [
                {
                    "name": part.name,
                    "outcome": part.outcome.value,
                    "value": part.value,
                    "seconds": part.seconds,
                    "detail": part.detail[:MAX_DETAIL_CHARACTERS],
                }
                for part in earned.parts
            ],
            "answer": verdict.answer,
            "detail": verdict.detail,
            "policy_version": rollout.policy_version,
            "later_versions": [
                {"first_token": start, "policy_version": version} for start, version in rollout.later_versions
            ],
        }
        for rollout, text, verdict, earned in zip(
            scored.group.rollouts, scored.texts, scored.verdicts, scored.earned, strict=True
        )
    ]


def _rollout_schema() -> object:
    """The columns in the order of docs/run-directory.md."""
    import pyarrow as pa

    part = [
        ("name", pa.string()),
        ("outcome", pa.string()),
        ("value", pa.float64()),
        ("seconds", pa.float64()),
        ("detail", pa.string()),
    ]
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
            ("solved", pa.bool_()),
            ("reward_parts", pa.list_(pa.struct(part))),
            ("answer", pa.string()),
            ("detail", pa.string()),
            ("policy_version", pa.int64()),
            (
                "later_versions",
                pa.list_(pa.struct([("first_token", pa.int32()), ("policy_version", pa.int64())])),
            ),
        ]
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines in order of step. Of steps and evaluations written twice (after a resume) the last counts.

    Events are all kept. Skipped are torn lines, and lines that a run does not write: `kind` is text, `step` a whole
    number from 0. Raises FileNotFoundError.
    """
    latest: dict[tuple[object, ...], dict[str, Any]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file):
            row = _row(line)
            if row is None:
                continue
            unique = () if row["kind"] in ("step", "evaluation") else (number,)
            latest[(row["kind"], row["step"], *unique)] = row
    return sorted(latest.values(), key=lambda row: row["step"])


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    # JSON and Unicode errors alike (a line torn by a crash), and brackets nested beyond what the parser bears.
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    step = row.get("step")
    return row if type(step) is int and 0 <= step <= MAX_STEP else None


def read_rollouts(path: Path) -> pyarrow.Table:
    """One step's rollouts, a row per completion. Raises FileNotFoundError, or ValueError for a damaged file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); restore it or move it away") from error


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
