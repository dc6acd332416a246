"""From a store of samples to samples.parquet and results.json; nothing here holds all completions in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from deepscaler.evaluation.completions import Completion, Plan
from deepscaler.evaluation.samples import (
    RESULTS_FILE,
    ROWS_PER_GROUP,
    SAMPLES_FILE,
    SCHEMA,
    read_samples,
    samples_table,
)
from deepscaler.evaluation.session import Tally
from deepscaler.evaluation.store import SampleStore
from deepscaler.observability.files import write_atomically
from deepscaler.types import Problem, Verdict

PARTIAL_FILE = "results.partial.json"
MOST_UNANSWERED = 0.95  # share without an answer above which a gate is suspected (RECIPE §3.4)


def sample_row(completion: Completion, verdict: Verdict, problem: Problem) -> dict[str, Any]:
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


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome.value,
        "reward": verdict.reward,
        "answer": verdict.answer,
        "detail": verdict.detail,
    }


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """samples.parquet, written in groups of rows as they come, whole or not at all."""
    import pyarrow.parquet as pq

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            stream = iter(rows)
            while group := list(islice(stream, ROWS_PER_GROUP)):
                writer.write_table(samples_table(group, str(path)))

    write_atomically(path, write)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def finish(store: SampleStore, plan: Plan, facts: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """Write samples.parquet, then results.json: where the latter stands, the evaluation is whole. Returns its content.

    facts: what results.json holds besides the figures.
    """
    rows = (sample_row(c, v, plan.problem(c.key)) for c, v in store.rows(plan.samples()))
    write_rows(store.directory / SAMPLES_FILE, rows)
    results = write_results(store.directory, facts, warnings)
    (store.directory / PARTIAL_FILE).unlink(missing_ok=True)
    return results


def write_results(directory: Path, facts: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """results.json from samples.parquet and `facts`, with what the figures themselves give away among the warnings."""
    computed = figures(directory)
    unanswered = [
        f"{name}: {f['no_answer_frac']:.0%} of the completions hold no answer; a template, an instruction or a gate is "
        "more likely wrong than the model"
        for name, f in computed["benchmarks"].items()
        if f["no_answer_frac"] > MOST_UNANSWERED
    ]
    results = {**computed, "warnings": [*warnings, *unanswered], **facts}
    write_json(directory / RESULTS_FILE, results)
    return results


def finish_partial(store: SampleStore, plan: Plan, facts: Mapping[str, Any]) -> Path:
    """What an interrupted evaluation knows: Pass@1 so far. A file of its own, so that nobody takes it for a result."""
    tally = Tally()
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
        **facts,
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


def figures(directory: Path) -> dict[str, Any]:
    """The figures of results.json, from samples.parquet alone."""
    from deepscaler.evaluation.run import table_figures

    return table_figures(read_samples(directory, texts=False))
