"""Which rows cannot be trained on: no answer, an answer the grader cannot read, a statement to prove."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from deepscaler.data.sources.layouts import shown
from deepscaler.data.sources.rows import Drop

_PROVES = re.compile(
    r"(?:^|[.!?:;\n]\s*|\b(?:please|then|and)\s+)(?:prove|show|demonstrate|verify)\s+(?:that|the following)\b", re.I
)
_ASKS = re.compile(
    r"\?|\b(?:find|determine|compute|calculate|evaluate|what|how many|how much|solve|simplify|express|give|enter|"
    r"maximum|minimum|largest|smallest)\b",
    re.I,
)
_PROSE_ANSWER = re.compile(
    r"\b(?:proof|prove[nd]?|q\.?e\.?d|see (?:the )?(?:solution|above|below)|not provided)\b", re.I
)
MAX_ANSWER_CHARACTERS = 1000


def lint_answers(table: pa.Table, readable: Callable[[str], bool]) -> list[Drop | None]:
    """A Drop for every row of rows.SCHEMA without a usable problem and answer, None for the others.

    `readable` says whether the grader can use a text as a reference.
    """
    columns = [table[name].to_pylist() for name in ("file", "row", "problem", "answer", "fault", "fault_detail")]
    drops = []
    for file, row, problem, answers, fault, detail in zip(*columns, strict=True):
        drops.append(_lint(f"{file}, row {row}", problem, answers, fault, detail, readable))
    return drops


def _lint(
    where: str,
    problem: str,
    answers: Sequence[str],
    fault: str | None,
    detail: str,
    readable: Callable[[str], bool],
) -> Drop | None:
    if fault:
        return Drop("missing_answer" if fault == "missing_column" else fault, detail)
    if proof_like(problem, answers):
        return Drop("proof_like", f"{where}: asks for a proof; the answer given is {shown(answers[0])}")
    if not any(len(answer) <= MAX_ANSWER_CHARACTERS and readable(answer) for answer in answers):
        return Drop("unparsable_answer", f"{where}: the grader cannot use {shown(answers[0])} as a reference")
    return None


def proof_like(problem: str, answers: Sequence[str]) -> bool:
    """Whether a problem asks for nothing but a proof, or its answer speaks of one."""
    if any(_PROSE_ANSWER.search(answer) for answer in answers):
        return True
    return bool(_PROVES.search(problem)) and not _ASKS.search(problem)
