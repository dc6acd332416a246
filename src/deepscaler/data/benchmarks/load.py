"""The registered benchmarks, loaded from files whose content is known by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.data.benchmarks.choices import CHOICE_ORDER
from deepscaler.data.benchmarks.hub import download, read_layout
from deepscaler.data.benchmarks.problems import problem_of
from deepscaler.data.benchmarks.review import correct, reviewed_rows
from deepscaler.data.benchmarks.specs import BENCHMARKS, BenchmarkSpec
from deepscaler.data.sources import readers
from deepscaler.data.sources.load import DataError
from deepscaler.json_text import parse_json
from deepscaler.observability.counts import counted
from deepscaler.types import Problem

__all__ = ["BENCHMARKS", "BenchmarkSpec", "LoadedBenchmark", "load_benchmark", "read_rows", "row_hash"]


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """A benchmark ready to be asked.

    problems: in the file's order, with ids `NAME/ROW`.
    sha256: of the file's bytes. registered: whether that is the digest the registry knows, of a hub dataset whether
        its rows are those of that file.
    row_hashes: per problem, over what is asked and what counts as right (`row_hash`).
    warnings: what a reader of the scores must be told, in words.
    origin: what says where it came from: the file's digest, of a hub dataset its name and commit too.
    """

    name: str
    problems: tuple[Problem, ...]
    sha256: str
    row_hashes: tuple[str, ...]
    registered: bool
    warnings: tuple[str, ...]
    origin: Mapping[str, object]


def load_benchmark(
    name: str, directory: Path | None, *, corrected: bool = False, allow_changed: bool = False
) -> LoadedBenchmark:
    """The benchmark `name`, from the hub when there is no directory.

    A directory holds the registered file (`aime24.json`), or in a directory of the benchmark's name (`aime24/`) what
    the hub has. `corrected` replaces the references that were found wrong (`benchmark_review`); ids and prompts stay
    the same, so the same completions can be graded both ways.

    Raises DataError (a ValueError) for an unknown name, a missing file, a content other than the registered one
    unless `allow_changed`, and for the first row with a missing field, a wrong type or an empty answer.
    """
    spec = _spec(name)
    content = _read(spec, None if directory is None else Path(directory))
    warnings = [] if not content.is_file else _check_digest(spec, content, allow_changed)
    registered = content.is_file and not warnings
    problems = tuple(problem_of(content.spec, content.where, number, row) for number, row in enumerate(content.rows))
    if not content.is_file:
        registered, warnings = _check_rows(spec, problems)
    changed = sum(review.changes for review in reviewed_rows(name).values())
    if corrected:
        problems = correct(name, str(content.where), problems)
        warnings.append(f"{changed} of {len(problems)} references were corrected; see docs/benchmarks-lint.md")
    elif changed and registered:
        warnings.append(
            f"{changed} of {len(problems)} references are wrong or too narrow; report the score on the corrected ones "
            "(suite.corrected = true) beside this one, see docs/benchmarks-lint.md"
        )
    return LoadedBenchmark(
        name=name,
        problems=problems,
        sha256=content.sha256,
        row_hashes=tuple(row_hash(problem) for problem in problems),
        registered=registered,
        warnings=tuple(warnings),
        origin=content.origin,
    )


def is_in(spec: BenchmarkSpec, directory: Path) -> bool:
    """Whether a directory holds the benchmark, as its registered file or in the hub's layout."""
    return bool(spec.file and (directory / spec.file).is_file()) or (directory / spec.name).is_dir()


@dataclass(frozen=True, slots=True)
class _Content:
    """Rows as read. is_file: from the registered kind of file, whose bytes are known; else in the hub's layout."""

    rows: list[object]
    sha256: str
    spec: BenchmarkSpec
    where: Path
    is_file: bool
    origin: Mapping[str, object]


def _read(spec: BenchmarkSpec, directory: Path | None) -> _Content:
    path = None if directory is None else directory / (spec.file or spec.name)
    if path is not None and spec.file and (path.is_file() or not path.with_name(spec.name).is_dir()):
        rows, digest = read_rows(path)
        return _Content(rows, digest, spec, path, is_file=True, origin={"file_sha256": digest})
    if path is not None:
        layout, commit = read_layout(spec, path.with_name(spec.name)), None
    else:
        layout, commit = download(spec)
    hub = {"dataset": spec.hub.dataset, "config": spec.hub.config, "split": spec.hub.split, "revision": commit}
    origin = {"file_sha256": layout.sha256, **hub}
    if spec.answer_kind == "letter":
        origin |= {"answer_kind": spec.answer_kind, "choice_order": CHOICE_ORDER}
    return _Content(layout.rows, layout.sha256, layout.spec, layout.where, is_file=False, origin=origin)


def _check_digest(spec: BenchmarkSpec, content: _Content, allow_changed: bool) -> list[str]:
    """A warning when the file is not the registered one. Raises DataError for it unless allowed."""
    if content.sha256 in spec.sha256:
        return []
    path, known = content.where, " or ".join(spec.sha256)
    message = f"{path} has SHA-256 {content.sha256}, the registered {spec.title} file has {known}"
    if _digest(path.read_bytes().replace(b"\r\n", b"\n")) in spec.sha256:
        message += "; only the line endings differ (CRLF instead of LF)"
    if not allow_changed:
        raise DataError(
            f"{message}: scores on it cannot be compared with those of others. Put the registered file there, "
            "or give your version as a file of its own in evaluation.validation_files"
        )
    return [message]


def _check_rows(spec: BenchmarkSpec, problems: Sequence[Problem]) -> tuple[bool, list[str]]:
    """(whether questions and references are those of the registered file, a warning when they are not)."""
    if not spec.rows_sha256:  # no file of it was at hand when it was registered; results hold the hash of the rows
        whole = len(problems) == spec.num_problems
        return whole, [] if whole else [f"{counted(len(problems), 'problem')}, the whole has {spec.num_problems}"]
    rows = hashlib.sha256("\n".join(map(row_hash, problems)).encode()).hexdigest()
    if rows == spec.rows_sha256:
        return True, []
    return False, [
        f"the {counted(len(problems), 'problem')} of {spec.hub.dataset} are not row by row those of the registered "
        f"{spec.file} ({spec.num_problems}): other wording, references or order. Compare scores only where rows_sha256 "
        "is the same"
    ]


def row_hash(problem: Problem) -> str:
    """64 bits (16 hex digits) over the prompt with the messages before it, the references in order, the tolerance, and
    an instruction of its own."""
    more: list[object] = [[[message.role, message.content] for message in problem.earlier]] if problem.earlier else []
    more += [] if problem.instruction is None else [{"instruction": problem.instruction}]
    content = json.dumps([problem.prompt, list(problem.references), problem.tolerance, *more], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_rows(path: Path) -> tuple[list[Any], str]:
    """(rows, SHA-256 of the bytes) of a file that holds a list of objects: JSON, or another format of `readers`."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; put the benchmark's file there, or name the directory that holds it")
    raw = path.read_bytes()
    if path.suffix != ".json":
        return readers.read_rows(path), _digest(raw)
    try:
        rows = parse_json(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 (byte {error.start}); convert the file to UTF-8") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: expected a list of objects, found {type(rows).__name__} {rows!r:.40}")
    return rows, _digest(raw)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _spec(name: str) -> BenchmarkSpec:
    if name not in BENCHMARKS:
        raise DataError(f"unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
