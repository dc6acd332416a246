"""Problems for training from a file, a directory or the hub, with errors that name file, row and field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepscaler.config.sections.data import SourceSection
from deepscaler.data.identity import problem_id
from deepscaler.data.sources.broken_text import fault_of, repair_latex
from deepscaler.data.sources.conversations import ConversationError
from deepscaler.data.sources.hub import data_files, fetch, is_hub_name
from deepscaler.data.sources.layouts import MISSING, Columns, Fields, read_fields, shown
from deepscaler.data.sources.other_columns import NO_OTHERS, other_columns
from deepscaler.data.sources.readers import DataError, is_data_file, read_rows
from deepscaler.data.sources.references import NoAnswerError, WrongTypeError, read_answers
from deepscaler.types import Problem, WantedColumns

__all__ = ["DataError", "SourceFile", "load_problems", "locate"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read. name: how messages and outputs call it; revision and licence: of a hub dataset, else empty."""

    path: Path
    name: str
    revision: str = ""
    licence: str = ""


def locate(source: str | Path) -> list[SourceFile]:
    """The files behind a path, a directory laid out like a hub dataset, or a hub dataset's name."""
    path = Path(source)
    if path.is_dir():
        return [SourceFile(file, str(file)) for file in data_files(path)]
    if is_data_file(path) or path.exists() or not is_hub_name(str(source)):
        return [SourceFile(path, str(path))]
    files, revision, licence = fetch(str(source))
    return [SourceFile(file, f"{source}/{file.name}", revision, licence) for file in files]


def load_problems(
    source: str | Path,
    *,
    prompt_field: str = "problem",
    answer_field: str = "answer",
    instruction: str = "",
    or_default_fields: bool = False,
    others: WantedColumns = NO_OTHERS,
) -> list[Problem]:
    """Every row of a source: what `deepscaler data prepare` wrote, or any file of the layouts of `layouts.py`.

    Answers may be strings, numbers (142.0 becomes "142"), lists of alternatives, or worked solutions that mark their
    answer (`references.py`). Raises DataError for the first row without prompt or answer, of a wrong type, with broken
    text, or with a repeated id; nothing is dropped silently. or_default_fields: a row without the named fields may have
    `problem` and `answer`. others: further columns to keep in `Problem.columns`.
    """
    columns = [Columns(prompt_field, answer_field, instruction)]
    columns += [Columns(instruction=instruction)] if or_default_fields else []
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for file in locate(source):
        for number, row in enumerate(read_rows(file.path)):
            where = f"{file.name}, row {number}"
            problem = _problem(where, file.path.stem, row, columns, others)
            if problem.id in seen:
                raise DataError(
                    f"{where}: same id as {seen[problem.id]} ({problem.id}); "
                    "give every row an id of its own, or remove the repeated problem"
                )
            seen[problem.id] = f"row {number}"
            problems.append(problem)
    if not problems:
        raise DataError(f"{source} holds no rows")
    return problems


def load_mixture(
    sources: Sequence[SourceSection], *, instruction: str = "", others: WantedColumns = NO_OTHERS
) -> tuple[list[Problem], list[int]]:
    """(the problems of all sources, per problem the index of its source). Raises DataError for one in two sources."""
    problems: list[Problem] = []
    source_of: list[int] = []
    place: dict[str, int] = {}
    for index, source in enumerate(sources):
        loaded = load_problems(
            source.path,
            prompt_field=source.prompt_field,
            answer_field=source.answer_field,
            instruction=instruction,
            others=others,
        )
        for problem in loaded:
            other = place.setdefault(problem.id, index)
            if other != index:
                raise DataError(
                    f"{source.path}: problem {problem.id} ({problem.prompt[:60]!r}) is in "
                    f"{sources[other].path} as well and would be drawn for both; remove it from one of them"
                )
            problems.append(problem)
            source_of.append(index)
    return problems, source_of


def _read_fields(row: Mapping[str, object], columns: Sequence[Columns]) -> Fields:
    """The row's values by the first columns that it has, by the first of all where it has none."""
    choices = [read_fields(row, some) for some in columns]
    return next((fields for fields in choices if MISSING not in (fields.problem, fields.answer)), choices[0])


def _problem(where: str, stem: str, row: object, columns: Sequence[Columns], others: WantedColumns) -> Problem:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with fields, found {type(row).__name__}")
    try:
        fields = _read_fields(row, columns)
    except ConversationError as error:
        raise DataError(f"{where}, field 'prompt': {error}") from error
    for field, value in ((fields.problem_field, fields.problem), (fields.answer_field, fields.answer)):
        if value is MISSING:
            raise DataError(f"{where}: no field {field!r}; it has {', '.join(map(str, row))}")
    if not isinstance(fields.problem, str) or not fields.problem.strip():
        found = shown(fields.problem)
        raise DataError(f"{where}, field {fields.problem_field!r}: expected a problem's text, found {found}")
    prompt = repair_latex(fields.problem)
    names = {"id": _name(fields.id), "source": _name(fields.source)}
    _refuse_broken(where, fields.problem_field, prompt, *(message.content for message in fields.earlier))
    for field, name in names.items():
        _refuse_broken(where, field, name)
    return Problem(
        id=names["id"] or problem_id(fields.problem, fields.earlier),
        prompt=prompt.strip(),
        references=_references(where, fields),
        source=names["source"] or stem,
        difficulty=read_difficulty(fields.difficulty),
        solution=fields.solution if isinstance(fields.solution, str) and not fault_of(fields.solution) else None,
        earlier=fields.earlier,
        pass_rate=_pass_rate(where, row.get("pass_rate")),
        columns=other_columns(where, row, others, without=(fields.problem_field, fields.answer_field)),
    )


def _name(value: object) -> str:
    """An id or a source as text; empty where the row has none. 0 is an id."""
    return "" if value is None else str(value)


def _refuse_broken(where: str, field: str, *texts: str) -> None:
    for text in texts:
        if fault := fault_of(text):
            raise DataError(f"{where}, field {field!r}: {fault}; write the text again, or remove the row")


def _references(where: str, fields: Fields) -> tuple[str, ...]:
    place = f"{where}, field {fields.answer_field!r}"
    try:
        references = read_answers(fields.answer)
    except (WrongTypeError, NoAnswerError) as error:
        raise DataError(f"{place}: {error}") from error
    if not references:
        kind = "empty list of answers" if isinstance(fields.answer, list) else "empty answer"
        raise DataError(f"{place}: {kind}; fill it in or remove the row")
    _refuse_broken(where, fields.answer_field, *references)
    return references


def _pass_rate(where: str, value: object) -> float | None:
    """What `deepscaler data score` wrote; None where it wrote none. Raises DataError for what is no share."""
    if value is None or value == "":
        return None
    try:
        rate = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        rate = math.nan
    if not 0.0 <= rate <= 1.0:
        raise DataError(f"{where}, field 'pass_rate': expected a share from 0 to 1, found {shown(value)}")
    return rate


def read_difficulty(value: object) -> float | None:
    """The tag as a number, None where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        return None  # NaN neither: it is below nothing
    return float(value)
