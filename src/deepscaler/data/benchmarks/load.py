"""The registered benchmarks, loaded from files whose content is known by its hash."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.data.benchmarks.hub import download, read_layout
from deepscaler.data.benchmarks.review import correct, reviewed_rows
from deepscaler.data.benchmarks.specs import BENCHMARKS, AnswerForm, BenchmarkSpec
from deepscaler.data.sources.load import DataError
from deepscaler.data.sources.references import NoAnswerError, read_reference
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
    problems = tuple(_problem(content.spec, content.where, number, row) for number, row in enumerate(content.rows))
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
    path = None if directory is None else directory / spec.file
    if path is not None and (path.is_file() or not path.with_name(spec.name).is_dir()):
        rows, digest = read_rows(path)
        return _Content(rows, digest, spec, path, is_file=True, origin={"file_sha256": digest})
    if path is not None:
        layout, commit = read_layout(spec, path.with_name(spec.name)), None
    else:
        layout, commit = download(spec)
    hub = {"dataset": spec.hub.dataset, "config": spec.hub.config, "split": spec.hub.split, "revision": commit}
    origin = {"file_sha256": layout.sha256, **hub}
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
    rows = hashlib.sha256("\n".join(map(row_hash, problems)).encode()).hexdigest()
    if rows == spec.rows_sha256:
        return True, []
    return False, [
        f"the {counted(len(problems), 'problem')} of {spec.hub.dataset} are not row by row those of the registered "
        f"{spec.file} ({spec.num_problems}): other wording, references or order. Compare scores only where rows_sha256 "
        "is the same"
    ]


def row_hash(problem: Problem) -> str:
    """64 bits (16 hex digits) over the prompt with the messages before it, the references in order, the tolerance."""
    earlier = [[[message.role, message.content] for message in problem.earlier]] if problem.earlier else []
    content = json.dumps([problem.prompt, list(problem.references), problem.tolerance, *earlier], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_rows(path: Path) -> tuple[list[Any], str]:
    """(rows, SHA-256 of the bytes) of a JSON file that holds a list of objects."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; put the benchmark's file there, or name the directory that holds it")
    raw = path.read_bytes()
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


def _problem(spec: BenchmarkSpec, path: Path, number: int, row: object) -> Problem:
    where = f"{path}, row {number}"
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with fields, found {type(row).__name__}")
    for role in ("problem", "answer"):
        if spec.fields[role] not in row:
            raise DataError(f"{where}: no field {spec.fields[role]!r}; it has {', '.join(map(str, row))}")
    prompt = row[spec.fields["problem"]]
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}, field {spec.fields['problem']!r}: expected a problem's text, found {prompt!r:.80}")
    _whole_text(f"{where}, field {spec.fields['problem']!r}", prompt)
    group = _group(spec, row)
    return Problem(
        id=f"{spec.name}/{number}",
        prompt=prompt.strip(),
        references=clean_answer(f"{where}, field {spec.fields['answer']!r}", spec, row),
        source=f"{spec.name}/{group}" if group else spec.name,
        difficulty=_number(where, spec, row, "difficulty"),
        solution=_solution(where, spec, row),
        tolerance=_number(where, spec, row, "tolerance"),
    )


def _group(spec: BenchmarkSpec, row: Mapping[str, object]) -> str:
    """What problems of one origin share: the paper of a contest, the subject, the course."""
    value = row.get(spec.fields["group"])
    if spec.name == "aime24":
        found = re.search(r"_AIME_(I{1,2})_", value) if isinstance(value, str) else None
        return "I" * int(value) if value in (1, 2) else found[1] if found else ""
    if not isinstance(value, str):
        return ""
    if spec.name == "amc23":
        found = re.search(r"/(\d{4})_AMC_(12[AB])_Problems", value)
        return f"{found[1]} {found[2]}" if found else ""
    return value.split("/")[1] if spec.name == "math500" and value.count("/") == 2 else value


def _number(where: str, spec: BenchmarkSpec, row: Mapping[str, object], role: str) -> float | None:
    field = spec.fields.get(role)
    value = row.get(field) if field else None
    if value is None:
        return None
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number) and number >= 0:
            return number
    raise DataError(f"{where}, field {field!r}: expected a number of at least 0 or nothing, found {value!r:.80}")


def _solution(where: str, spec: BenchmarkSpec, row: Mapping[str, object]) -> str | None:
    field = spec.fields.get("solution")
    value = row.get(field) if field else None
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n\n".join(value)
    raise DataError(f"{where}, field {field!r}: expected text or a list of texts, found {value!r:.80}")


def clean_answer(where: str, spec: BenchmarkSpec, row: Mapping[str, object]) -> tuple[str, ...]:
    """The alternatives that count as right, as the grader reads them. `where` names file, row and field."""
    value = row[spec.fields["answer"]]
    if spec.answer_form == "float":
        return (_integer_of_float(where, value),)
    if spec.answer_form in ("variants", "joined_list"):
        if not isinstance(value, list) or not value:
            raise DataError(f"{where}: expected a list of answers, found {value!r:.80}")
        texts = [_clean_text(f"{where}, item {i}", item, spec.answer_form) for i, item in enumerate(value)]
        if spec.answer_form == "joined_list" and row.get(spec.fields["multiple"]) and len(texts) > 1:
            texts = [", ".join(texts)]
        return tuple(dict.fromkeys(texts))
    return (_clean_text(where, value, spec.answer_form),)


def _integer_of_float(where: str, value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where}: expected a number, found {value!r:.80}")
    return str(value)


_WRAPPING = re.compile(r"^(?:\\quad|\\,|\\;|\s)+")


def _clean_text(where: str, value: object, form: AnswerForm) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected an answer's text, found {value!r:.80}")
    _whole_text(where, value)
    try:
        text = read_reference(value)
    except NoAnswerError as error:
        raise DataError(f"{where}: {error}") from error
    if form == "integer_text" and re.fullmatch(r"\d+", text):
        text = text.lstrip("0") or "0"
    elif form == "joined_list":
        # `$69$,$84$`, `$221,$8$`, `$(-\infty, 0) \cup\{1\}$.`: the dollars are typesetting, pairs or not. A space
        # after each comma keeps `2500,7500` or `(2,251,252)` from looking like a number with separators.
        text = re.sub(r"(?<!\\)\$", "", text).strip().removesuffix(".")
        text = re.sub(r",\s*", ", ", _WRAPPING.sub("", text)).strip()
    elif len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    if not text:
        raise DataError(f"{where}: empty answer; the benchmark's row cannot be graded")
    return text


def _whole_text(where: str, text: str) -> None:
    """JSON may spell half of a surrogate pair, which no tokenizer or file takes afterwards."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: broken Unicode at character {error.start} ({text[error.start]!a})") from error
