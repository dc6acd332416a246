"""Stored completions graded again; the changes are recorded, and the old figures kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deepscaler.evaluation.completions import Key
from deepscaler.evaluation.output_files import iterate_samples, verdict_fields, write_rows
from deepscaler.evaluation.results import Results, compute_results, write_results
from deepscaler.evaluation.samples import RESULTS_FILE, SAMPLES_FILE, read_digested, read_results
from deepscaler.evaluation.store import SETTINGS_FILE, lock, replace_verdicts
from deepscaler.protocols import Grader
from deepscaler.types import AnswerKind, FinishReason, GradeItem, Outcome, Verdict

BATCH = 512
FIGURES = frozenset({"benchmarks", "average", "contamination"})


@dataclass(frozen=True, slots=True)
class Regraded:
    """transitions: (outcome before, after) -> completions, unchanged ones included. changed: one row per change."""

    results: Results
    transitions: Counter[tuple[str, str]]
    changed: list[dict[str, Any]]
    old_results: Path


def regrade(directory: Path, grader: Grader, grader_settings: Mapping[str, object]) -> Regraded:
    """Grade every completion of a finished evaluation again. Raises ValueError when the directory holds none.

    The old results.json stays as results.N.json, and changes.N.jsonl names every completion whose verdict changed.
    """
    old = read_results(directory)
    with lock(directory):
        return _regrade(directory, old, grader, grader_settings)


def _regrade(
    directory: Path, old: Mapping[str, Any], grader: Grader, grader_settings: Mapping[str, object]
) -> Regraded:
    settings = {**old.get("settings", {}), "grader": dict(grader_settings)}
    prefilled = bool(settings.get("template", {}).get("thinking_prefilled", False))
    letters = {name for name, origin in settings.get("datasets", {}).items() if origin.get("answer_kind") == "letter"}
    transitions: Counter[tuple[str, str]] = Counter()
    changed: list[dict[str, Any]] = []
    verdicts: dict[Key, Verdict] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for row, verdict in graded(iterate_samples(directory / SAMPLES_FILE), grader, prefilled, letters):
            before, after = row["outcome"], verdict.outcome.value
            transitions[before, after] += 1
            key = Key(row["benchmark"], row["problem_id"], row["sample_index"])
            if before != after:
                answers = {"answer_before": row["answer"], "answer_after": verdict.answer, "detail": verdict.detail}
                changed.append({**key._asdict(), "before": before, "after": after, **answers})
            verdicts[key] = verdict
            yield {**row, **verdict_fields(verdict)}

    write_rows(directory / SAMPLES_FILE, rows())
    number = next(n for n in range(1, 10_000) if not (directory / f"results.{n}.json").exists())
    kept = (directory / RESULTS_FILE).rename(directory / f"results.{number}.json")
    lines = "".join(json.dumps(row) + "\n" for row in changed)
    (directory / f"changes.{number}.jsonl").write_text(lines, encoding="utf-8")
    metadata = {name: value for name, value in old.items() if name not in FIGURES}
    regraded = {"before": kept.name, "changes": {f"{a} -> {b}": n for (a, b), n in transitions.items() if a != b}}
    results = compute_results(read_digested(directory), **{**metadata, "settings": settings, "regraded": regraded})
    write_results(results, directory)
    if (directory / SETTINGS_FILE).is_file():  # made by `eval`, not imported
        replace_verdicts(directory, verdicts, grader_settings)
    return Regraded(results, transitions, changed, kept)


def graded(
    rows: Iterable[dict[str, Any]], grader: Grader, prefilled: bool, letters: Collection[str] = ()
) -> Iterator[tuple[dict[str, Any], Verdict]]:
    """Every row with its verdict, in order, a batch in memory at a time. letters: benchmarks answered by a letter."""
    stream = iter(rows)
    while batch := list(islice(stream, BATCH)):
        items = [_item(row, prefilled, "letter" if row["benchmark"] in letters else "math") for row in batch]
        yield from zip(batch, grader.grade(items), strict=True)


def _item(row: Mapping[str, Any], prefilled: bool, kind: AnswerKind) -> GradeItem:
    truncated = row["finish_reason"] == FinishReason.LENGTH.value
    return GradeItem(row["completion"], row["references"], prefilled, row["tolerance"], truncated, kind)


def worded(transitions: Counter[tuple[str, str]]) -> list[str]:
    """`wrong -> correct: 12`, the most frequent first; then how many stayed what they were."""
    changes = [(count, pair) for pair, count in transitions.items() if pair[0] != pair[1]]
    order = [outcome.value for outcome in Outcome]
    changes.sort(key=lambda item: (-item[0], order.index(item[1][0]), order.index(item[1][1])))
    same = sum(count for (before, after), count in transitions.items() if before == after)
    return [*(f"{a} -> {b}: {count}" for count, (a, b) in changes), f"unchanged: {same}"]
