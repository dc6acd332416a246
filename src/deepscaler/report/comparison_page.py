"""The page of a comparison: one HTML file without script, from comparison.json and the two samples tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from deepscaler.json_text import parse_json
from deepscaler.observability.problem_texts import Question, read_problem_texts
from deepscaler.report.forest import ForestRow, forest_svg
from deepscaler.report.formatting import is_number
from deepscaler.report.rollout_sample import shorten
from deepscaler.report.style import render_page, write_page
from deepscaler.report.training_charts import OUTCOMES

MAX_LISTED = 400  # changed problems in the table of each benchmark
MAX_SHOWN = 60  # problems whose completions are on the page: those that changed most, as many of every benchmark
SAMPLES_SHOWN = 3  # completions per problem and side
MAX_CHARACTERS = 3000  # of each completion, head and end
MAX_QUESTION = 1500  # characters of a problem's text
LINE_CHARACTERS = 130  # of them in the table before it is unfolded
MAX_REFERENCE = 200
NORMAL_95 = 1.959964
COLUMNS = (
    "benchmark",
    "problem_id",
    "sample_index",
    "completion",
    "num_tokens",
    "outcome",
    "answer",
    "detail",
    "references",
)
Key = tuple[str, str]  # benchmark, problem id


@dataclass(frozen=True, slots=True)
class Change:
    """A problem whose mean reward differs. anchor: of its completions on the page, empty where they are not shown.

    question: None where the evaluations did not keep what was asked.
    """

    benchmark: str
    problem_id: str
    before: float
    after: float
    anchor: str
    question: Question | None = None

    @property
    def prompt(self) -> str:
        return shorten(self.question.prompt, MAX_QUESTION) if self.question else ""

    @property
    def beginning(self) -> str:
        """The question on one line, for the table; equal to `prompt`'s words where these are few."""
        words = " ".join(self.prompt.split())
        return (
            words
            if len(words) <= LINE_CHARACTERS
            else (words[:LINE_CHARACTERS].rpartition(" ")[0] or words[:LINE_CHARACTERS]) + " …"
        )

    @property
    def is_long(self) -> bool:
        return self.beginning.endswith(" …")

    @property
    def references(self) -> list[str]:
        return [shorten(text, MAX_REFERENCE) for text in self.question.references] if self.question else []


def write_comparison_page(comparison: Path, before: Path, after: Path, out: Path) -> Path:
    """Write the page. comparison: comparison.json; before, after: the samples.parquet it compares. Returns `out`.

    What was asked comes from the problems.jsonl beside these. Raises ValueError when a file is damaged.
    """
    try:
        content = parse_json(comparison.read_text(encoding="utf-8"))
        questions = {**read_problem_texts(after.parent), **read_problem_texts(before.parent)}
        changes = changed_problems(content["sets"], questions)
        rows = [*(_row(name, record) for name, record in content["sets"].items()), _row("average", content["total"])]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{comparison}: not a comparison ({error!r}); run `deepscaler compare --out` again") from error
    columns = content.get("published", {}).get("columns", {})
    shown = [change for found in changes.values() for change in found if change.anchor]
    texts = [_completions(file, shown) for file in (before, after)]
    listed = {name: found[:MAX_LISTED] for name, found in changes.items()}
    html = render_page(
        "comparison.html",
        functions={"forest_svg": forest_svg},
        title=f"{content['before']['label']} and {content['after']['label']}",
        content=content,
        forest=rows,
        parts={name: record for name, record in content["sets"].items() if record["is_part"]},
        whole_suite=set(content["sets"]) == set(columns) and not any(r["is_part"] for r in content["sets"].values()),
        rows=[*content["sets"].items(), ("average", content["total"])],
        listed=listed,
        counts={name: (len(found), len(content["sets"][name]["problems"])) for name, found in changes.items()},
        shown=[_problem(change, *texts) for change in shown],
        outcomes=OUTCOMES,
        published_columns=columns,
        texts_known=bool(questions),
        limits={
            "listed": MAX_LISTED,
            "shown": shown_per_set(len(changes)),
            "samples": SAMPLES_SHOWN,
            "characters": MAX_CHARACTERS,
        },
    )
    return write_page(html, out)


def changed_problems(
    sets: Mapping[str, Any], questions: Mapping[Key, Question] | None = None
) -> dict[str, list[Change]]:
    """Problems whose mean reward differs, by benchmark, largest change first; `shown_per_set` of each have anchors."""
    changes: dict[str, list[Change]] = {}
    for number, (name, record) in enumerate(sets.items()):
        different = [row for row in record["problems"] if row[1] != row[2]]
        different.sort(key=lambda row: -abs(row[2] - row[1]))
        linked = shown_per_set(len(sets))
        changes[name] = [
            Change(
                name,
                identity,
                before,
                after,
                f"problem-{number}-{place}" if place < linked else "",
                (questions or {}).get((name, identity)),
            )
            for place, (identity, before, after) in enumerate(different)
        ]
    return changes


def shown_per_set(num_sets: int) -> int:
    return max(1, MAX_SHOWN // num_sets)


def _row(name: str, record: Mapping[str, Any]) -> ForestRow:
    again = record.get("se_resampling")
    mean = record["mean"]
    inner = (mean - NORMAL_95 * again, mean + NORMAL_95 * again) if is_number(again) else None
    return ForestRow(name, mean, record["low"], record["high"], inner, total=name == "average")


def _completions(file: Path, shown: Sequence[Change]) -> dict[Key, list[dict[str, Any]]]:
    """Rows of the problems that are shown, by problem, samples in order. Only these are held in memory."""
    if not shown:
        return {}
    wanted = {(change.benchmark, change.problem_id) for change in shown}
    table = pq.read_table(
        file, columns=list(COLUMNS), filters=[("problem_id", "in", sorted({identity for _, identity in wanted}))]
    )
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        key = (row["benchmark"], row["problem_id"])
        if key in wanted:
            found.setdefault(key, []).append(row)
    return {key: sorted(rows, key=lambda row: row["sample_index"]) for key, rows in found.items()}


def _problem(change: Change, before: Mapping[Key, list[Any]], after: Mapping[Key, list[Any]]) -> dict[str, Any]:
    key = (change.benchmark, change.problem_id)
    sides = [before.get(key, []), after.get(key, [])]
    references = next((rows[0]["references"] for rows in sides if rows), [])
    return {
        "change": change,
        "references": references or [],
        "sides": [
            {"letter": letter, "total": len(rows), "samples": [_sample(row) for row in choose_samples(rows)]}
            for letter, rows in zip("AB", sides, strict=True)
        ],
    }


def choose_samples(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most SAMPLES_SHOWN, one of every outcome before a second of any, in the order of the samples."""
    rank: dict[int, int] = {}
    seen: dict[str, int] = {}
    for place, row in enumerate(rows):
        rank[place] = seen.get(row["outcome"], 0)
        seen[row["outcome"]] = rank[place] + 1
    chosen = sorted(range(len(rows)), key=lambda place: (rank[place], place))[:SAMPLES_SHOWN]
    return [rows[place] for place in sorted(chosen)]


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "text": shorten(row["completion"], MAX_CHARACTERS)}
