"""Finds oddities in a benchmark: references that contradict their own solutions, duplicates, units, several answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from deepscaler.data.benchmarks.specs import BenchmarkSpec
from deepscaler.data.sources.references import value_in
from deepscaler.types import GradeItem, Outcome, Problem, Verdict

Kind = Literal[
    "contradiction",
    "unreadable",
    "duplicate",
    "out_of_range",
    "unit",
    "tolerance",
    "several_answers",
    "words",
    "typesetting",
]
KINDS: dict[str, str] = {
    "contradiction": "the reference differs from the boxed value of the row's own solution",
    "unreadable": "the grader does not accept the value that the reference gives",
    "duplicate": "an earlier row has the same problem",
    "out_of_range": "an AIME answer that is no integer from 0 to 999",
    "unit": "the row names a unit that is not part of the reference",
    "tolerance": "the row declares an absolute tolerance",
    "several_answers": "the reference lists several answers in any order",
    "words": "the reference holds words that an answer would have to repeat",
    "typesetting": "brackets or dollars that do not pair, stray characters",
}

Judge = Callable[[GradeItem], Verdict]
"""The reward's grading function, which this layer does not import."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity. boxed: the solution's value; repeats: the sub-question of the prompt whose answer is repeated."""

    benchmark: str
    row: int
    kind: Kind
    detail: str
    boxed: str | None = None
    repeats: int | None = None


def lint_benchmark(
    spec: BenchmarkSpec, rows: Sequence[Mapping[str, object]], problems: Sequence[Problem], judge: Judge
) -> list[Finding]:
    """All findings, by row. `rows` are those of the file, `problems` what the loader made of them, in its order."""
    findings = list(_duplicates(spec, problems))
    for number, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        found = [
            *_contradiction(spec, number, problem, judge),
            *_unreadable(spec, number, problem, judge),
            *_range(spec, number, problem),
            *_columns(spec, number, row, problem),
            *_writing(spec, number, row, problem),
        ]
        findings.extend(found)
    return sorted(findings, key=lambda finding: finding.row)


def _duplicates(spec: BenchmarkSpec, problems: Sequence[Problem]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for number, problem in enumerate(problems):
        text = " ".join(problem.prompt.casefold().split())
        if text in first:
            same = problems[first[text]].references == problem.references
            detail = f"same text as row {first[text]}, {'same' if same else 'another'} reference"
            yield Finding(spec.name, number, "duplicate", detail)
        first.setdefault(text, number)


_SUBPROBLEM = re.compile(r"Subproblem (\d+):")


def sub_answers(prompt: str) -> list[tuple[int, str]]:
    """(number, text with the boxed answer) of every sub-question that the prompt itself solves."""
    marks = list(_SUBPROBLEM.finditer(prompt))
    ends = [*(mark.start() for mark in marks), len(prompt)][1:]
    parts = [(int(mark[1]), prompt[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)] if marks else []
    return [(number, part) for number, part in parts if "\\boxed" in part]


def _contradiction(spec: BenchmarkSpec, number: int, problem: Problem, judge: Judge) -> Iterator[Finding]:
    if not problem.solution or "\\boxed" not in problem.solution:
        return
    wrong = []
    for reference in problem.references:
        verdict = judge(_item(problem.solution, reference))
        if verdict.outcome is not Outcome.CORRECT:
            wrong.append((reference, verdict))
    for reference, verdict in wrong:
        repeats = [
            n for n, text in sub_answers(problem.prompt) if judge(_item(text, reference)).outcome is Outcome.CORRECT
        ]
        whole = len(wrong) == len(problem.references)
        if not (whole or repeats):
            continue  # another spelling beside one that agrees: alternatives need not all be the solution's
        detail = f"reference {reference}, solution {verdict.answer or verdict.detail}"
        yield Finding(spec.name, number, "contradiction", detail, verdict.answer, repeats[-1] if repeats else None)
        return


def _unreadable(spec: BenchmarkSpec, number: int, problem: Problem, judge: Judge) -> Iterator[Finding]:
    for reference in problem.references:
        verdict = judge(_item(f"\\boxed{{{value_in(reference)}}}", reference))
        if verdict.outcome is not Outcome.CORRECT:
            yield Finding(spec.name, number, "unreadable", f"{reference}: {verdict.outcome.value} {verdict.detail}")


def _item(text: str, reference: str) -> GradeItem:
    return GradeItem(text, [reference], thinking_prefilled=False)


def _range(spec: BenchmarkSpec, number: int, problem: Problem) -> Iterator[Finding]:
    if spec.answer_form != "integer_text":
        return
    for reference in problem.references:
        if not re.fullmatch(r"\d{1,3}", reference):
            yield Finding(spec.name, number, "out_of_range", reference)


def _columns(spec: BenchmarkSpec, number: int, row: Mapping[str, object], problem: Problem) -> Iterator[Finding]:
    if row.get("unit"):
        yield Finding(spec.name, number, "unit", f"{problem.references[0]} in {row['unit']}")
    if problem.tolerance is not None:
        yield Finding(spec.name, number, "tolerance", f"{problem.references[0]} within {problem.tolerance:g}")
    items = top_level_items(problem.references[0])
    flagged = bool(row.get(spec.fields.get("multiple", "")))
    if len(items) > 1:
        notes = [f"{len(items)}: {problem.references[0]}"]
        if len(set(items)) < len(items):
            notes.append("one of them twice")
        if spec.fields.get("multiple") and not flagged:
            notes.append("not flagged as several")
        yield Finding(spec.name, number, "several_answers", "; ".join(notes))
    elif flagged:
        yield Finding(spec.name, number, "several_answers", f"flagged as several, holds one: {problem.references[0]}")


_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")


def _writing(spec: BenchmarkSpec, number: int, row: Mapping[str, object], problem: Problem) -> Iterator[Finding]:
    written = row[spec.fields["answer"]]
    for raw in written if isinstance(written, list) else [written]:
        if isinstance(raw, str) and len(re.findall(r"(?<!\\)\$", raw)) % 2:
            yield Finding(spec.name, number, "typesetting", f"odd number of dollars: {raw.strip()}")
    for reference in problem.references:
        if re.search(r"\b[A-Za-z]{5,}", _COMMAND.sub(" ", reference)):
            yield Finding(spec.name, number, "words", reference)
        if re.match(r"[a-z]\([-\d\\]*\d*,.*\]$", reference) or _depth(reference) != 0:
            yield Finding(spec.name, number, "typesetting", f"a stray character or bracket: {reference}")


_SEPARATED = re.compile(r"[-+]?(?:\\\$)?\d{1,3}(?:,(?:\\!)?\s?\d{3})+")


def top_level_items(text: str) -> list[str]:
    """The parts between commas outside brackets, without spaces; one part for a lone answer or `58,500`."""
    if _SEPARATED.fullmatch(text):
        return [text]
    depth, items = 0, [""]
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return ["".join(item.split()) for item in items]


def _depth(text: str) -> int:
    """How many brackets stay open, with intervals like (0,1] allowed to mix round and square ones."""
    plain = re.sub(r"\\left|\\right", "", text)
    return sum((character in "([{") - (character in ")]}") for character in plain)
