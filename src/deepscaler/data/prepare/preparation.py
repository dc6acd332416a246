"""From raw sources to rows worth training on, step by step, with an account of every row that left.

    read -> map columns -> normalise -> lint -> near-duplicates -> decontaminate -> prompt length -> split

Every step is a function from an Arrow table (rows.SCHEMA) to a Drop or None per row; `prepare` only carries tables from
one to the next and counts. What needs other layers comes in as functions (`Tools`): the grader's idea of equal and
readable answers, and a tokenizer's count of tokens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from deepscaler.data.benchmarks.load import LoadedBenchmark
from deepscaler.data.identity import problem_id
from deepscaler.data.prepare.answer_lint import lint_answers
from deepscaler.data.prepare.contamination import Finding, contamination_drops, find_contamination
from deepscaler.data.prepare.dedupe import Conflict, Duplicate, find_duplicates, resolve
from deepscaler.data.prepare.normalize import NormalizedTexts, Vocabulary
from deepscaler.data.prepare.similarity import SameAnswer
from deepscaler.data.sources.layouts import Columns
from deepscaler.data.sources.load import SourceFile, locate
from deepscaler.data.sources.readers import DataError, read_rows
from deepscaler.data.sources.rows import (
    DROPPED_COLUMNS,
    SCHEMA,
    Drop,
    asked,
    map_columns,
    messages_before,
    normalize,
    repeated_ids,
    take_out,
)
from deepscaler.observability.counts import counted
from deepscaler.types import Problem

CountTokens = Callable[[Sequence[Problem]], Sequence[int]]
Report = Callable[[str, int, int], None]  # step, done, of

PREPARED = pa.schema(
    {
        "id": pa.string(),
        "problem": pa.large_string(),
        "answer": pa.list_(pa.string()),
        "source": pa.string(),
        "difficulty": pa.float64(),
        "solution": pa.large_string(),
        "earlier": SCHEMA.field("earlier").type,
        "file": pa.string(),
        "row": pa.int64(),
    }
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a preparation depends on besides its inputs. validation_frac: share of rows kept out of training."""

    columns: Columns
    max_prompt_tokens: int | None = None
    validation_frac: float = 0.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Tools:
    """same_answer: whether two references mean the same. readable: whether the grader can use a reference.

    prompt_tokens: length of the prompts of many problems, of which only prompt and earlier messages are filled in;
    absent, prompts are not measured.
    """

    same_answer: SameAnswer
    readable: Callable[[str], bool]
    prompt_tokens: CountTokens | None = None
    report: Report = lambda step, done, of: None


@dataclass(frozen=True, slots=True)
class StepCount:
    """How many rows a step was given and let through, and why the others left."""

    name: str
    rows_in: int
    rows_out: int
    reasons: dict[str, int]


@dataclass
class Preparation:
    """Everything there is to write. duplicates, conflicts and findings index into `compared`, the rows after lint."""

    files: list[SourceFile]
    file_rows: list[int] = field(default_factory=list)
    steps: list[StepCount] = field(default_factory=list)
    dropped: list[pa.Table] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    compared: pa.Table = field(default_factory=SCHEMA.empty_table)
    findings: list[Finding] = field(default_factory=list)
    train: pa.Table = field(default_factory=PREPARED.empty_table)
    validation: pa.Table = field(default_factory=PREPARED.empty_table)

    def drop(self, table: pa.Table, drops: Sequence[Drop | None], step: str) -> pa.Table:
        """The rows that stay; those that leave are counted and kept for dropped.parquet."""
        stays, leaves = take_out(table, drops, step)
        reasons = Counter(leaves["reason"].to_pylist())
        self.steps.append(StepCount(step, len(table), len(stays), dict(sorted(reasons.items()))))
        self.dropped.append(leaves)
        return stays

    def dropped_table(self) -> pa.Table:
        return pa.concat_tables(self.dropped).select(DROPPED_COLUMNS)


def prepare(
    sources: Sequence[str | Path], benchmarks: Sequence[LoadedBenchmark], settings: Settings, tools: Tools
) -> Preparation:
    """Run every step. Raises DataError for a source that cannot be read, or when no row is left."""
    files = [file for source in sources for file in locate(source)]
    done = Preparation(files)
    table = _read(files, settings, tools, done)
    table = normalize(table)
    done.steps.append(StepCount("normalize", len(table), len(table), {}))
    table = done.drop(table, lint_answers(table, tools.readable), "lint")
    table = _compare(table, benchmarks, settings, tools, done)
    if tools.prompt_tokens is not None and settings.max_prompt_tokens is not None:
        drops = overlong_prompts(table, tools.prompt_tokens, settings.max_prompt_tokens)
        table = done.drop(table, drops, "prompt length")
    done.train, done.validation = split(table, settings.validation_frac, settings.seed)
    if not len(done.train):
        reasons = "; ".join(f"{step.name}: {step.reasons}" for step in done.steps if step.reasons)
        raise DataError(f"no row of {', '.join(map(str, sources))} is left to train on ({reasons})")
    return done


def _read(files: Sequence[SourceFile], settings: Settings, tools: Tools, done: Preparation) -> pa.Table:
    tables = []
    for number, file in enumerate(files):
        tools.report("read", number, len(files))
        rows = read_rows(file.path)
        if not rows:
            raise DataError(f"{file.name} holds no rows")
        tables.append(map_columns(rows, file, settings.columns))
        done.file_rows.append(len(rows))
        done.warnings.extend(repeated_ids(tables[-1]))
    tools.report("read", len(files), len(files))
    table = pa.concat_tables(tables)
    done.steps.append(StepCount("read", len(table), len(table), {}))
    return table


def _compare(
    table: pa.Table, benchmarks: Sequence[LoadedBenchmark], settings: Settings, tools: Tools, done: Preparation
) -> pa.Table:
    """Take out duplicates, then benchmark problems. Both are sought among all rows: a duplicate that leaves may be the
    one whose wording gives its cluster away as a benchmark's problem."""
    done.compared = table
    normalized, answers = NormalizedTexts(asked(table), Vocabulary()), table["answer"].to_pylist()
    done.duplicates = find_duplicates(
        normalized, answers, tools.same_answer, seed=settings.seed, progress=partial(tools.report, "duplicates")
    )
    resolution = resolve(table, done.duplicates)
    done.conflicts = resolution.conflicts
    done.findings = find_contamination(
        normalized,
        answers,
        {benchmark.name: benchmark.problems for benchmark in benchmarks},
        tools.same_answer,
        partial(tools.report, "contamination"),
    )
    files, rows = table["file"].to_pylist(), table["row"].to_pylist()
    contaminated = contamination_drops(
        resolution.roots, done.findings, lambda index: f"{files[index]}, row {rows[index]}"
    )
    table = done.drop(table, resolution.drops, "duplicates")
    staying = [drop for drop, duplicate in zip(contaminated, resolution.drops, strict=True) if duplicate is None]
    return done.drop(table, staying, "contamination")


def overlong_prompts(table: pa.Table, prompt_tokens: CountTokens, limit: int) -> list[Drop | None]:
    """A Drop for every row whose prompt has more than `limit` tokens."""
    places = zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True)
    texts = zip(table["problem"].to_pylist(), messages_before(table), strict=True)
    lengths = prompt_tokens([Problem("", text, (), earlier=earlier) for text, earlier in texts])
    return [
        Drop("overlong_prompt", f"{file}, row {row}: {counted(length, 'token')}, at most {limit}")
        if length > limit
        else None
        for (file, row), length in zip(places, lengths, strict=True)
    ]


def split(table: pa.Table, validation_frac: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """(training, validation) in PREPARED's columns. A problem's side depends on its text and the seed alone.

    So it does not move when other rows come or go, or are in another order.
    """
    columns: dict[str, object] = {name: table[name] for name in PREPARED.names if name != "id"}
    texts = zip(table["problem"].to_pylist(), messages_before(table), strict=True)
    ids = [problem_id(text, earlier) for text, earlier in texts]
    prepared = pa.table({"id": pa.array(ids, pa.string()), **columns}).select(PREPARED.names).cast(PREPARED)
    kept_out = [_share(identity, seed) < validation_frac for identity in ids]
    return (
        prepared.filter(pa.array([not out for out in kept_out], pa.bool_())),
        prepared.filter(pa.array(kept_out, pa.bool_())),
    )


def _share(identity: str, seed: int) -> float:
    """A number in [0, 1) that is a function of the problem and the seed."""
    digest = hashlib.blake2b(f"{seed}:{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
