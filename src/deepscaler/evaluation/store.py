"""Samples on disk, one by one as they arrive; an evaluation that is started again finds them.

DIR/settings.json              every setting that shapes a result, and their hash; written before the first sample
DIR/journal/completions.jsonl  one line per completion, in order of arrival
DIR/journal/verdicts.jsonl     one line per verdict, in order of arrival
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from deepscaler.evaluation.completions import Completion, Key
from deepscaler.evaluation.journal import Journal
from deepscaler.json_text import canonical_digest, differences
from deepscaler.observability.files import remove_temporaries, write_atomically
from deepscaler.observability.run_directory import read_json
from deepscaler.types import FinishReason, Outcome, Verdict

SETTINGS_FILE = "settings.json"
JOURNAL = "journal"
MAX_COUNT = 2**31 - 1
MAX_SHOWN = 6  # differing settings named in a message


def lock(directory: Path) -> TextIO:
    """Make the directory this process's own until the result is closed. Raises ValueError when another works in it."""
    (directory / JOURNAL).mkdir(parents=True, exist_ok=True)
    file = (directory / JOURNAL / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(
            f"another process is evaluating into {directory}; wait for it, or give another --out"
        ) from error
    for place in (directory, directory / JOURNAL):
        remove_temporaries(place)
    return file


class SampleStore:
    """Completions and verdicts of one evaluation directory. One process at a time; memory holds no texts."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        """Raises ValueError when the directory holds samples made with other settings, or another process writes."""
        self.directory = directory
        self._lock = lock(directory)
        try:
            _check_settings(directory, settings)
        except ValueError:
            self._lock.close()
            raise
        self._completions = Journal(directory / JOURNAL / "completions.jsonl")
        self._verdicts = Journal(directory / JOURNAL / "verdicts.jsonl")
        self._places = {_key(row["key"]): place for place, row in self._completions.entries()}
        self._graded = {
            key: place for place, row in self._verdicts.entries() if (key := _key(row["key"])) in self._places
        }

    @property
    def num_damaged(self) -> int:
        """Lines dropped at opening because a crash tore them."""
        return self._completions.num_damaged + self._verdicts.num_damaged

    def __len__(self) -> int:
        return len(self._places)

    @property
    def num_graded(self) -> int:
        return len(self._graded)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def add(self, completion: Completion) -> None:
        """Store a completion. Raises RunError when the disk is full; a key already stored is a fault of ours."""
        assert completion.key not in self._places, f"{completion.key} arrived twice"
        row = asdict(completion)
        row["key"] = list(completion.key)
        self._places[completion.key] = self._completions.append(row)

    def add_verdict(self, key: Key, verdict: Verdict) -> None:
        assert key in self._places and key not in self._graded, f"{key} graded twice, or before it arrived"
        self._graded[key] = self._verdicts.append(_verdict_row(key, verdict))

    def ungraded(self) -> Iterator[Completion]:
        """Stored before, but not graded: the process ended in between."""
        for key in [k for k in self._places if k not in self._graded]:
            yield self.read(key)

    def verdicts(self) -> Iterator[tuple[Key, Verdict]]:
        for key in self._graded:
            yield key, self.verdict(key)

    def verdict(self, key: Key) -> Verdict:
        return _verdict(self._verdicts.read(self._graded[key]))

    def read(self, key: Key) -> Completion:
        return _completion(self._completions.read(self._places[key]))

    def rows(self, keys: Iterable[Key]) -> Iterator[tuple[Completion, Verdict]]:
        """Those of the keys that are stored and graded, in the order asked for, read one at a time."""
        for key in keys:
            if key in self._graded:
                yield self.read(key), self.verdict(key)

    def sync(self) -> None:
        self._completions.sync()
        self._verdicts.sync()

    def close(self) -> None:
        self._completions.close()
        self._verdicts.close()
        self._lock.close()

    def remove(self) -> None:
        """Delete what opening it made; for one that is closed and never got a sample."""
        (self.directory / SETTINGS_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.directory / JOURNAL, ignore_errors=True)

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def replace_verdicts(directory: Path, verdicts: Mapping[Key, Verdict], grader_settings: Mapping[str, object]) -> None:
    """Let a store hold these verdicts, made with this grader, so that going on with it mixes nothing."""

    def write(temporary: Path) -> None:
        journal = Journal(temporary)
        for key, verdict in verdicts.items():
            journal.append(_verdict_row(key, verdict))
        journal.close()

    # Verdicts first: should the process end in between, the settings still name the old grader and `eval` refuses.
    write_atomically(directory / JOURNAL / "verdicts.jsonl", write)
    stored = read_json(directory / SETTINGS_FILE) or {}
    _write_settings(directory, {**stored.get("settings", {}), "grader": dict(grader_settings)})


def _write_settings(directory: Path, settings: Mapping[str, object]) -> None:
    text = json.dumps({"sha256": canonical_digest(settings), "settings": dict(settings)}, indent=1) + "\n"
    write_atomically(directory / SETTINGS_FILE, lambda temporary: temporary.write_text(text))


def _check_settings(directory: Path, settings: Mapping[str, object]) -> None:
    path = directory / SETTINGS_FILE
    stored = read_json(path)
    if stored is None:
        if (directory / "samples.parquet").exists():
            raise ValueError(
                f"{directory} holds samples but no {SETTINGS_FILE}, so nothing says how they were made; give another "
                "--out, or move them away"
            )
        _write_settings(directory, settings)
        return
    changes = differences(stored.get("settings", {}), settings)
    journal = directory / JOURNAL / "completions.jsonl"
    if changes and not (journal.exists() and journal.stat().st_size) and not (directory / "samples.parquet").exists():
        _write_settings(directory, settings)  # an evaluation without a sample may be made with any settings
    elif [change.key for change in changes] == ["num_samples"]:
        _check_more_samples(directory, changes[0].before, changes[0].after)
        _write_settings(directory, settings)  # draws are keyed: sample i is the same among few samples and among many
    elif changes:
        shown = "; ".join(change.words() for change in changes[:MAX_SHOWN])
        shown += f"; and {len(changes) - MAX_SHOWN} more" if len(changes) > MAX_SHOWN else ""
        regrade = (
            f", or `deepscaler regrade {directory}` to grade the stored completions again"
            if all(change.key.startswith("grader.") for change in changes)
            else ""
        )
        raise ValueError(
            f"{directory} was made with other settings ({shown}), and results of different settings are never mixed. "
            f"Give another --out, or the settings it was made with{regrade}"
        )


def _check_more_samples(directory: Path, before: object, after: object) -> None:
    """An evaluation may get more samples per problem, which leaves the old ones as they are, but not fewer."""
    if not (isinstance(before, int) and isinstance(after, int) and after > before):
        raise ValueError(
            f"{directory} was made with --samples {before}, and {after} were asked for; give "
            f"--samples {before} or more, which makes only those that are missing, or another --out"
        )


def _key(parts: list[Any]) -> Key:
    return Key(parts[0], parts[1], parts[2])


def _completion(row: dict[str, Any]) -> Completion:
    ids = row["token_ids"]
    return Completion(
        key=_key(row["key"]),
        text=row["text"],
        token_ids=None if ids is None else tuple(ids),
        num_tokens=_count(row["num_tokens"]),
        finish_reason=FinishReason(row["finish_reason"]),
        seed=row["seed"],
        latency_s=row["latency_s"],
    )


def _count(tokens: int | None) -> int | None:
    """None for a count that no completion can have: a server said it, and samples.parquet could not hold it."""
    return tokens if tokens is not None and tokens <= MAX_COUNT else None


def _verdict_row(key: Key, verdict: Verdict) -> dict[str, object]:
    return {
        "key": list(key),
        "outcome": verdict.outcome.value,
        "reward": verdict.reward,
        "answer": verdict.answer,
        "detail": verdict.detail,
        "seconds": round(verdict.seconds, 6),
    }


def _verdict(row: dict[str, Any]) -> Verdict:
    return Verdict(Outcome(row["outcome"]), row["reward"], row["answer"], row["detail"], row["seconds"])
