"""The rows of a registered benchmark as problems: its columns, its answers as the grader reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from deepscaler.data.benchmarks.choices import lettered
from deepscaler.data.benchmarks.spec import AnswerForm, BenchmarkSpec
from deepscaler.data.sources.load import DataError
from deepscaler.data.sources.references import NoAnswerError, read_reference
from deepscaler.types import Problem

ABSENT = object()


def problem_of(spec: BenchmarkSpec, path: Path, number: int, row: object) -> Problem:
    where = f"{path}, row {number}"
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with fields, found {type(row).__name__}")
    for field in (spec.fields["problem"], spec.fields["answer"], *spec.wrong_choices):
        if column_of(row, field) is ABSENT:
            raise DataError(f"{where}: no field {field!r}; it has {', '.join(map(str, row))}")
    prompt = column_of(row, spec.fields["problem"])
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}, field {spec.fields['problem']!r}: expected a problem's text, found {prompt!r:.80}")
    whole_text(f"{where}, field {spec.fields['problem']!r}", prompt)
    group = _group(spec, row)
    if spec.answer_form == "choice":
        prompt, references = _with_choices(where, spec, row, prompt)
    else:
        references = clean_answer(f"{where}, field {spec.fields['answer']!r}", spec, row)
    return Problem(
        id=f"{spec.name}/{number}",
        prompt=prompt.strip(),
        references=references,
        source=f"{spec.name}/{group}" if group else spec.name,
        difficulty=_number(where, spec, row, "difficulty"),
        solution=_solution(where, spec, row),
        tolerance=_number(where, spec, row, "tolerance"),
        instruction=spec.instruction,
        answer_kind=spec.answer_kind,
    )


def column_of(row: Mapping[str, object], path: str) -> object:
    """A row's column, or with dots what is inside one: `prompt.0.content`. A column that is absent is `ABSENT`."""
    if path in row:
        return row[path]
    value: object = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return ABSENT
    return value


def _with_choices(
    where: str, spec: BenchmarkSpec, row: Mapping[str, object], question: str
) -> tuple[str, tuple[str, ...]]:
    """(the question with its choices under letters, the right letter)."""
    texts = []
    for field in (spec.fields["answer"], *spec.wrong_choices):
        value = column_of(row, field)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where}, field {field!r}: expected a choice's text, found {value!r:.80}")
        whole_text(f"{where}, field {field!r}", value)
        texts.append(value.strip())
    prompt, letter = lettered(question, texts[0], texts[1:])
    return prompt, (letter,)


def _group(spec: BenchmarkSpec, row: Mapping[str, object]) -> str:
    """What problems of one origin share: the paper of a contest, the subject, the course."""
    value = row.get(spec.fields["group"]) if "group" in spec.fields else None
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
            number = float(value.removeprefix("Level ") if isinstance(value, str) else value)
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
    value = column_of(row, spec.fields["answer"])
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
    whole_text(where, value)
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


def whole_text(where: str, text: str) -> None:
    """JSON may spell half of a surrogate pair, which no tokenizer or file takes afterwards."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: broken Unicode at character {error.start} ({text[error.start]!a})") from error
