"""The definition of a benchmark of one's own: a TOML file beside the data, or `NAME=FILE:problem,answer`."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from deepscaler.config.schema import explain_error
from deepscaler.config.setting import Section, setting
from deepscaler.data.sources.readers import DataError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class ColumnsSection(Section):
    problem: str = setting("problem", shapes="samples", doc="column of the question; dots reach inside: extra.question")
    answer: str = setting("answer", shapes="samples", doc="column of the reference, or of a list of alternatives")
    id: str | None = setting(None, shapes="samples", doc="column of ids; absent = the row's number")
    solution: str | None = setting(None, shapes="samples", doc="column of worked solutions, kept for the record")
    difficulty: str | None = setting(None, shapes="samples", doc="column of numbers to group the score by")
    group: str | None = setting(None, shapes="samples", doc="column of what problems share: paper, subject")
    tolerance: str | None = setting(None, shapes="samples", doc="column of absolute tolerances, above `tolerance`")
    choices: str | tuple[str, ...] | None = setting(
        None, shapes="samples", doc="column of the list of choices, or the columns of the wrong ones"
    )


class OwnBenchmark(Section):
    """What a benchmark's TOML file says."""

    file: str = setting(shapes="samples", doc="data file, relative to the TOML file")
    name: str | None = setting(None, shapes="samples", doc="name in tables; absent = that of the TOML file")
    title: str = setting("", shapes="nothing", doc="for people")
    answer: Literal["math", "number", "letter"] = setting(
        "math", shapes="samples", doc="how answers are compared: by the grader, as numbers with a tolerance, as letters"
    )
    tolerance: float | None = setting(None, shapes="samples", doc="absolute, of a number", ge=0)
    relative_tolerance: float | None = setting(None, shapes="samples", doc="share of the reference's size", ge=0, lt=1)
    instruction: str | None = setting(None, shapes="samples", doc="asked instead of suite.instruction")
    source: str = setting("", shapes="nothing", doc="where the problems come from")
    licence: str = setting("", shapes="nothing", doc="under which terms")
    columns: ColumnsSection = ColumnsSection()


@dataclass(frozen=True, slots=True)
class Definition:
    """A benchmark that someone brings. where: the TOML file or the command line's words; sha256: of the TOML file."""

    name: str
    path: Path
    own: OwnBenchmark
    where: str
    sha256: str | None = None


def read_definition(path: Path, name: str | None = None) -> Definition:
    """The benchmark of a TOML file. Raises DataError with one line for every mistake."""
    try:
        raw = path.read_bytes()
        table = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: the benchmark's definition cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: not valid TOML: {error}") from None
    try:
        own = OwnBenchmark.model_validate(table)
    except ValidationError as error:
        lines = [f"{path}: {explain_error(item, OwnBenchmark)}" for item in error.errors(include_url=False)]
        raise DataError("\n".join(lines)) from None
    tolerance = own.tolerance is not None or own.relative_tolerance is not None or own.columns.tolerance is not None
    if tolerance and own.answer != "number":
        raise DataError(f'{path}: a tolerance is for numbers; set answer = "number", or remove it')
    if own.columns.choices is not None and own.answer != "letter":
        raise DataError(f'{path}: columns.choices is for multiple choice; set answer = "letter", or remove it')
    chosen = _checked_name(name or own.name or path.stem, str(path))
    return Definition(chosen, path.parent / own.file, own, str(path), hashlib.sha256(raw).hexdigest())


def parse_definition(entry: str) -> Definition | None:
    """The benchmark of `NAME=FILE[:problem,answer]`, `NAME=FILE.toml` or `FILE.toml`; None for a bare name.

    Raises DataError for columns that are not two.
    """
    name, equals, rest = entry.partition("=")
    if not equals:
        return read_definition(Path(entry)) if entry.endswith(".toml") else None
    _checked_name(name, f"--suite {entry}")
    if rest.endswith(".toml"):
        return read_definition(Path(rest), name)
    path, colon, named = (rest, "", "") if Path(rest).exists() else rest.rpartition(":")
    if not colon:
        path = rest
    columns = ColumnsSection()
    if colon:
        problem, comma, answer = (part.strip() for part in named.partition(","))
        if not comma or not problem or not answer:
            raise DataError(
                f"--suite {entry}: expected NAME=FILE:PROBLEM,ANSWER, two columns, for example mine=x.csv:q,a"
            )
        columns = ColumnsSection(problem=problem, answer=answer)
    if not path:
        raise DataError(f"--suite {entry}: names no file; expected NAME=FILE, or NAME=FILE:PROBLEM,ANSWER")
    return Definition(name, Path(path), OwnBenchmark(file=path, columns=columns), f"--suite {entry}")


def _checked_name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise DataError(f"{where}: {name!r} is no name for a benchmark; use letters, digits, '.', '_' and '-'")
    return name
