"""Writes samples.parquet and results.json from a store of samples, without all completions in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deepscaler.evaluation.completions import Completion, Plan
from deepscaler.evaluation.results import Results, compute_results, write_results
from deepscaler.evaluation.samples import (
    ROWS_PER_GROUP,
    SAMPLES_FILE,
    SCHEMA,
    read_digested,
    samples_table,
)
from deepscaler.evaluation.session import Tally
from deepscaler.evaluation.store import SampleStore
from deepscaler.observability.files import write_atomically
from deepscaler.observability.problem_texts import write_problem_texts
from deepscaler.types import Problem, RunError, Verdict

PARTIAL_FILE = "results.partial.json"
GROUP_CHARACTERS = 2**23


def sample_row(completion: Completion, verdict: Verdict, problem: Problem) -> dict[str, object]:
    """One row of samples.parquet."""
    return {
        "benchmark": completion.key.benchmark,
        "problem_id": completion.key.problem_id,
        "sample_index": completion.key.sample_index,
        "completion": completion.text,
        "token_ids": completion.token_ids,
        "num_tokens": completion.num_tokens,
        "finish_reason": completion.finish_reason.value,
        **verdict_fields(verdict),
        "seed": completion.seed,
        "latency_s": completion.latency_s,
        "references": list(problem.references),
        "source": problem.source or None,
        "difficulty": problem.difficulty,
        "tolerance": problem.tolerance,
    }


def verdict_fields(verdict: Verdict) -> dict[str, object]:
    return {
        "outcome": verdict.outcome.value,
        "reward": verdict.reward,
        "answer": verdict.answer,
        "detail": verdict.detail,
    }


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """samples.parquet, written in groups of rows as they come, whole or not at all.

    Raises RunError where the file cannot be written.
    """
    import pyarrow.parquet as pq

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for group in _groups(rows):
                writer.write_table(samples_table(group, str(path)))

    try:
        write_atomically(path, write)
    except OSError as error:
        raise RunError(
            f"{path} could not be written ({error.strerror or error}). Every sample is kept in {path.parent}; make "
            "room and run the same command again"
        ) from error


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Rows in groups that memory holds several times over, however long the completions are."""
    group: list[Mapping[str, Any]] = []
    characters = 0
    for row in rows:
        group.append(row)
        characters += len(row["completion"]) + 4 * len(row.get("token_ids") or ())
        if len(group) == ROWS_PER_GROUP or characters > GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def write_json(path: Path, document: Mapping[str, object]) -> None:
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def write_evaluation(store: SampleStore, plan: Plan, metadata: Mapping[str, Any]) -> Results:
    """Write samples.parquet and problems.jsonl, then results.json, which marks a complete evaluation.

    metadata: `settings`, and the other entries of results.json besides the figures.
    """
    rows = (sample_row(c, v, plan.problem(c.key)) for c, v in store.rows(plan.samples()))
    write_rows(store.directory / SAMPLES_FILE, rows)
    write_problem_texts(store.directory, plan.sets)
    results = compute_results(read_digested(store.directory), **metadata)
    write_results(results, store.directory)
    (store.directory / PARTIAL_FILE).unlink(missing_ok=True)
    return results


def write_partial_results(store: SampleStore, plan: Plan, metadata: Mapping[str, object]) -> Path:
    """Write Pass@1 so far of an interrupted evaluation, to a file of its own that is not mistaken for a result."""
    tally = Tally(len(plan.problems))
    for key, verdict in store.verdicts():
        tally.add(key, verdict)
    so_far = {
        name: {"pass@1": e.mean, "num_problems": e.num_problems, "num_samples_graded": count}
        for name, (e, count) in tally.by_benchmark().items()
    }
    document = {
        "complete": False,
        "num_completions": plan.num_completions,
        "num_stored": len(store),
        "pass@1_so_far": so_far,
        **metadata,
    }
    path = store.directory / PARTIAL_FILE
    write_json(path, document)
    return path


def iterate_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a samples.parquet, a group of them in memory at a time."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
        yield from batch.to_pylist()
