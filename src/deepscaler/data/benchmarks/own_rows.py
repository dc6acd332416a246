"""A row of a benchmark of one's own as a problem. Every fault is a DataError that names file, row and field."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from fractions import Fraction

from deepscaler.data.benchmarks.choices import lettered, listed
from deepscaler.data.benchmarks.definition import ColumnsSection, Definition
from deepscaler.data.benchmarks.problems import ABSENT, column_of, whole_text
from deepscaler.data.sources.layouts import shown
from deepscaler.data.sources.readers import DataError
from deepscaler.data.sources.references import NoAnswerError, WrongTypeError, read_answers
from deepscaler.types import Problem

_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\].:]?")


def own_problem(definition: Definition, where: str, number: int, row: object) -> Problem:
    """where: file and row, for messages. number: of the row, the problem's id where no column holds one."""
    own, columns = definition.own, definition.own.columns
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with fields, found {type(row).__name__}")
    question = _text(where, row, columns.problem, "a problem's text")
    if own.answer == "letter":
        prompt, references = _lettered(where, row, question, columns)
    else:
        prompt, references = question, _references(f"{where}, field {columns.answer!r}", column_of(row, columns.answer))
    tolerance = None
    if own.answer == "number":
        tolerance = _tolerance(where, row, definition, references)
    key = str(number) if columns.id is None else _text(where, row, columns.id, "an id")
    group = column_of(row, columns.group) if columns.group else None
    solution = column_of(row, columns.solution) if columns.solution else None
    return Problem(
        id=f"{definition.name}/{key}",
        prompt=prompt,
        references=references,
        source=definition.name if group in (None, "", ABSENT) else f"{definition.name}/{group}",
        difficulty=_number(where, row, columns.difficulty),
        solution=solution if isinstance(solution, str) else None,
        tolerance=tolerance,
        instruction=own.instruction,
        answer_kind="letter" if own.answer == "letter" else "math",
    )


def _text(where: str, row: Mapping[str, object], field: str, what: str) -> str:
    value = column_of(row, field)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where}, field {field!r}: expected {what}, found {'nothing' if value is ABSENT else shown(value)}"
        )
    whole_text(f"{where}, field {field!r}", value)
    return value.strip()


def _references(place: str, value: object) -> tuple[str, ...]:
    if value is None or value is ABSENT:
        raise DataError(f"{place}: no answer; a benchmark needs one in every row, fill it in or remove the row")
    try:
        references = read_answers(value)
    except (WrongTypeError, NoAnswerError) as error:
        raise DataError(f"{place}: {error}") from error
    if not references:
        raise DataError(f"{place}: empty answer; a benchmark needs one in every row, fill it in or remove the row")
    for reference in references:
        whole_text(place, reference)
    return references


def _tolerance(
    where: str, row: Mapping[str, object], definition: Definition, references: Sequence[str]
) -> float | None:
    """The absolute tolerance of a row: its own, else the larger of the absolute and the relative one."""
    own = definition.own
    sizes = []
    for reference in references:
        try:
            sizes.append(abs(float(Fraction(reference.replace(",", "")))))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise DataError(
                f"{where}, field {own.columns.answer!r}: {shown(reference)} is no number, and {definition.where} says "
                'answer = "number"; correct the row, or compare with answer = "math"'
            ) from None
    if (given := _number(where, row, own.columns.tolerance)) is not None:
        return given
    tolerance = max(own.tolerance or 0.0, (own.relative_tolerance or 0.0) * min(sizes))
    return tolerance or None


def _number(where: str, row: Mapping[str, object], field: str | None) -> float | None:
    value = column_of(row, field) if field else None
    if value in (None, "", ABSENT):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise DataError(f"{where}, field {field!r}: expected a number of at least 0 or nothing, found {shown(value)}")
    return number


def _lettered(
    where: str, row: Mapping[str, object], question: str, columns: ColumnsSection
) -> tuple[str, tuple[str, ...]]:
    """(the question with its choices, the right letter). Without columns of choices the question lists them itself."""
    place, answer = f"{where}, field {columns.answer!r}", column_of(row, columns.answer)
    if isinstance(columns.choices, tuple):
        wrong = [_text(where, row, column, "a choice's text") for column in columns.choices]
        prompt, letter = lettered(question, _text(where, row, columns.answer, "the right choice's text"), wrong)
        return prompt, (letter,)
    if columns.choices is None:
        return question, (_letter(place, answer, None),)
    choices = column_of(row, columns.choices)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise DataError(f"{where}, field {columns.choices!r}: expected a list of choices, found {shown(choices)}")
    texts = [choice.strip() for choice in choices]
    return listed(question, texts), (_letter(place, answer, texts),)


def _letter(place: str, answer: object, choices: Sequence[str] | None) -> str:
    """The right letter, of an answer that is a letter, a choice's text, or its index from 0."""
    count = 26 if choices is None else len(choices)
    if isinstance(answer, str) and choices is not None and choices.count(answer.strip()) == 1:
        return string.ascii_uppercase[choices.index(answer.strip())]
    if isinstance(answer, int) and not isinstance(answer, bool) and choices is not None and 0 <= answer < count:
        return string.ascii_uppercase[answer]
    found = _LETTER.fullmatch(answer.strip()) if isinstance(answer, str) else None
    if found is not None and string.ascii_uppercase.index(found[1].upper()) < count:
        return found[1].upper()
    ways = "a letter" if choices is None else f"a letter of {count} choices, a choice's text, or an index from 0"
    raise DataError(f"{place}: expected {ways}, found {'nothing' if answer is ABSENT else shown(answer)}")
