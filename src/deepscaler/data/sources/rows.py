"""Rows on their way through preparation: an Arrow table with one schema, and how rows leave it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from deepscaler.data.identity import asked_text
from deepscaler.data.sources.broken_text import fault_of, repair_latex
from deepscaler.data.sources.conversations import ConversationError
from deepscaler.data.sources.layouts import MISSING, Columns, Fields, read_fields, shown
from deepscaler.data.sources.load import SourceFile, read_difficulty
from deepscaler.data.sources.question_lint import question_fault
from deepscaler.data.sources.readers import DataError
from deepscaler.data.sources.references import NoAnswerError, WrongTypeError, read_answers
from deepscaler.types import Message

# file, row: place of the row. record: the whole row as JSON. fault: why it cannot be used; fault_detail: in words.
SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "row": pa.int64(),
        "problem": pa.large_string(),
        "answer": pa.list_(pa.string()),
        "source": pa.string(),
        "difficulty": pa.float64(),
        "solution": pa.large_string(),
        "earlier": pa.list_(pa.struct({"role": pa.string(), "content": pa.large_string()})),
        "row_id": pa.string(),
        "fault": pa.string(),
        "fault_detail": pa.string(),
        "record": pa.large_string(),
    }
)
MAX_PROBLEM_CHARACTERS = 50_000  # the longest of the known problems has 6,500; such a text is no problem's


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row leaves: a short reason that is counted, and the particulars in words."""

    reason: str
    detail: str = ""


def map_columns(rows: Sequence[object], file: SourceFile, columns: Columns) -> pa.Table:
    """Raw rows of one file -> SCHEMA. A row that cannot be used carries its fault; lint takes it out.

    Raises DataError when no row has the problem's or the answer's column, which is a wrong name rather than bad rows.
    """
    mapped = [_map_row(number, row, file, columns) for number, row in enumerate(rows)]
    objects = [row for row in rows if isinstance(row, Mapping)]
    for role, reason in (("problem", "missing_problem"), ("answer", "missing_column")):
        if objects and all(row["fault"] == reason for row in mapped):
            fields = read_fields(objects[0], columns)
            raise DataError(
                f"{file.name}: no row has a field {getattr(fields, role + '_field')!r} for the {role}; row 0 has "
                f"{', '.join(map(str, objects[0]))}. Name the right one with --{role}-column or data."
                f"{'prompt' if role == 'problem' else 'answer'}_field"
            )
    return pa.Table.from_pylist(mapped, schema=SCHEMA)


def _map_row(number: int, row: object, file: SourceFile, columns: Columns) -> dict[str, object]:
    mapped: dict[str, object] = {}
    mapped.update(dict.fromkeys(SCHEMA.names))
    mapped |= {"file": file.name, "row": number, "source": file.path.stem, "answer": [], "problem": "", "earlier": []}
    mapped["record"] = json.dumps(row, default=str)  # ASCII, so that it can hold what is no Unicode text
    if not isinstance(row, Mapping):
        return mapped | _fault("wrong_type", file, number, None, f"expected an object, found {shown(row)}")
    try:
        fields = read_fields(row, columns)
    except ConversationError as error:
        return mapped | _fault(error.reason, file, number, "prompt", str(error))
    mapped |= {
        "source": _text(fields.source) or file.path.stem,
        "difficulty": read_difficulty(fields.difficulty),
        "solution": _text(_repaired(fields.solution)) or None,
        "row_id": None if fields.id is None else _text(str(fields.id)),
    }
    return mapped | _problem(fields, file, number) | _answer(fields, file, number)


def _problem(fields: Fields, file: SourceFile, number: int) -> dict[str, object]:
    where = (file, number, fields.problem_field)
    problem = fields.problem
    if problem is MISSING or problem is None or (isinstance(problem, str) and not problem.strip()):
        return _fault("missing_problem", *where, "no problem")
    if not isinstance(problem, str):
        return _fault("wrong_type", *where, f"expected a problem's text, found {shown(problem)}")
    if len(problem) > MAX_PROBLEM_CHARACTERS:
        return _fault("overlong_problem", *where, f"{len(problem):,} characters, at most {MAX_PROBLEM_CHARACTERS:,}")
    problem = repair_latex(problem)
    for text in (problem, *(message.content for message in fields.earlier)):
        if broken := fault_of(text):
            return _fault("broken_text", *where, broken)
    earlier = [{"role": message.role, "content": message.content} for message in fields.earlier]
    fault = question_fault(fields, problem)
    return {"problem": problem, "earlier": earlier} | (_fault(fault[0], *where, fault[1]) if fault else {})


def _answer(fields: Fields, file: SourceFile, number: int) -> dict[str, object]:
    where = (file, number, fields.answer_field)
    answer = fields.answer
    if answer is MISSING:
        return _fault("missing_column", *where, "the row has no such field")
    if answer is None or answer == [] or answer == [None]:
        return _fault("missing_answer", *where, "no answer")
    try:
        references = read_answers(answer)
    except WrongTypeError as error:
        return _fault("wrong_type", *where, str(error))
    except NoAnswerError as error:
        return _fault("unparsable_answer", *where, str(error))
    if not references:
        return _fault("empty_answer", *where, "an empty answer")
    for reference in references:
        if fault := fault_of(reference):
            return _fault("broken_text", *where, fault)
    return {"answer": list(references)}


def _fault(reason: str, file: SourceFile, number: int, field: str | None, found: str) -> dict[str, object]:
    where = f"{file.name}, row {number}" + (f", field {field!r}" if field else "")
    return {"fault": reason, "fault_detail": f"{where}: {found}".encode("utf-8", "replace").decode()}


def _repaired(value: object) -> object:
    return repair_latex(value) if isinstance(value, str) else value


def _text(value: object) -> str:
    return value if isinstance(value, str) and not fault_of(value) else ""


_INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff\x00]")
_ODD_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")


def normalize_text(text: str) -> str:
    """Unicode NFC, line ends as line feeds, plain spaces; no blank ends of lines, no invisible characters.

    Mathematics stays as it is written: no command, number or operator changes.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _ODD_SPACE.sub(" ", _INVISIBLE.sub("", text))
    text = re.sub(r"(?<!\\)[ \t]+(?=\n)", "", text)  # `\ ` is a space of LaTeX
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def normalize(table: pa.Table) -> pa.Table:
    """SCHEMA -> SCHEMA with the texts of problems, answers and solutions normalised."""
    problems = [normalize_text(text) for text in table["problem"].to_pylist()]
    answers = [[normalize_text(answer) for answer in row] for row in table["answer"].to_pylist()]
    solutions = [text and normalize_text(text) for text in table["solution"].to_pylist()]
    for name, values in (("problem", problems), ("answer", answers), ("solution", solutions)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    return table


def messages_before(table: pa.Table) -> list[tuple[Message, ...]]:
    """Per row the messages before the problem."""
    return [tuple(Message(m["role"], m["content"]) for m in row or ()) for row in table["earlier"].to_pylist()]


def asked(table: pa.Table) -> list[str]:
    """Per row all that is asked, turns before the problem included."""
    return list(map(asked_text, table["problem"].to_pylist(), messages_before(table)))


DROPPED_COLUMNS = ("source", "row", "step", "reason", "detail", "problem", "answer", "record")


def take_out(table: pa.Table, drops: Sequence[Drop | None], step: str) -> tuple[pa.Table, pa.Table]:
    """(rows that stay, rows that leave as DROPPED_COLUMNS). In the latter `source` is the file that holds the row."""
    assert len(drops) == len(table)
    stays = pa.array([drop is None for drop in drops], pa.bool_())
    leaving = [drop for drop in drops if drop is not None]
    gone = table.filter(pa.array([drop is not None for drop in drops], pa.bool_()))
    columns = {
        "source": gone["file"],
        "row": gone["row"],
        "step": pa.array([step] * len(leaving), pa.string()),
        "reason": pa.array([drop.reason for drop in leaving], pa.string()),
        "detail": pa.array([drop.detail for drop in leaving], pa.large_string()),
        "problem": gone["problem"],
        "answer": gone["answer"],
        "record": gone["record"],
    }
    return table.filter(stays), pa.table(columns)


def repeated_ids(table: pa.Table) -> Iterable[str]:
    """A message for every id that two rows of one file share. Preparation gives ids of its own, so it is a warning."""
    first: dict[tuple[str, str], int] = {}
    for file, row, row_id in zip(*(table[name].to_pylist() for name in ("file", "row", "row_id")), strict=True):
        if row_id and first.setdefault((file, row_id), row) != row:
            yield f"{file}, row {row}, field 'id': {shown(row_id)} is also the id of row {first[file, row_id]}"
