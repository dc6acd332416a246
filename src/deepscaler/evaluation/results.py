"""results.json: every figure of an evaluation, computed from its samples table."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepscaler.answers.equivalence import equivalent
from deepscaler.evaluation import breakdown
from deepscaler.evaluation.benchmark_samples import BenchmarkSamples, split_benchmarks
from deepscaler.evaluation.estimators import (
    Estimate,
    all_correct_at_k,
    combine_sets,
    estimate,
    pass_at_k,
    source_clusters,
)
from deepscaler.evaluation.samples import (
    BOXED,
    CHARACTERS,
    DIGEST,
    RESULTS_FILE,
    SAMPLES_FILE,
    UNKNOWN_FINISH,
    read_results,
    read_samples,
    setting,
    without_texts,
)
from deepscaler.evaluation.votes import Equal, answer_classes, majority_at_k
from deepscaler.observability.counts import counted
from deepscaler.observability.files import fingerprint, write_atomically
from deepscaler.types import FinishReason, Outcome

T = TypeVar("T")
MAX_COMPARED_CHARACTERS = 200  # longer answers vote together only when their texts are the same
LONG_TOKENS, LONG_CHARACTERS = 256, 1024  # completions of so many do not repeat by chance
SUSPICIOUS_FRAC = 0.05
REPEATED_FRAC = 0.9  # of the samples that could repeat an earlier one: beyond, also short ones do not by chance


@dataclass(frozen=True, slots=True)
class Results:
    """Estimates by benchmark, their equally weighted average, and the content of results.json."""

    estimates: dict[str, Estimate]
    average: Estimate
    content: dict[str, Any]


def same_answer(answer: str, other: str) -> bool:
    """Whether two wrong answers are one vote: the grader's own equality, for answers of ordinary length."""
    if max(len(answer), len(other)) > MAX_COMPARED_CHARACTERS:
        return answer == other
    return equivalent(answer, other).equal


def compute_results(
    table: pa.Table,
    settings: Mapping[str, object],
    *,
    equal: Equal = same_answer,
    **metadata: object,
) -> Results:
    """All figures of a samples table. Fractions of 1, tokens, seconds; what is unknown is null.

    table: of `read_samples`, or without texts of `read_digested`, which needs a tenth of the memory.
    metadata: further entries at the top of results.json. Raises ValueError for a table without rows.
    """
    if not len(table):
        raise ValueError("there are no samples to compute results from")
    table = without_texts(table)
    estimates: dict[str, Estimate] = {}
    benchmarks: dict[str, object] = {}
    for samples in split_benchmarks(table):
        e = estimate(samples.reward_matrix, source_clusters(breakdown.source_labels(samples)))
        if breakdown.all_the_same(samples, samples.column(DIGEST)) and setting(settings, "temperature") != 0:
            e = replace(e, **breakdown.UNKNOWN_RESAMPLING)  # copies say nothing about another draw
        estimates[samples.name] = e
        benchmarks[samples.name] = _benchmark(samples, e, settings, equal)
    average = combine_sets(list(estimates.values()))
    content = {"benchmarks": benchmarks, "average": estimate_json(average), "settings": dict(settings), **metadata}
    return Results(estimates, average, content)


def estimate_json(e: Estimate) -> dict[str, object]:
    values = {
        "pass@1": e.mean,
        "low": e.low,
        "high": e.high,
        "se_problems": e.se_problems,
        "low_resampling": e.low_resampling,
        "high_resampling": e.high_resampling,
        "se_resampling": e.se_resampling,
        "num_problems": e.num_problems,
        "num_samples": e.num_samples,
        "num_clusters": e.num_clusters,
    }
    return {name: finite(value) for name, value in values.items()}


def finite(value: T) -> T | None:
    """None where a single problem or sample leaves an error unknown: JSON has neither infinity nor NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(results: Results, directory: Path) -> None:
    """Written last: the presence of results.json shows that the evaluation is complete."""
    _write(results.content, directory)


def find_changed_samples(directory: Path) -> str | None:
    """How samples.parquet differs from what results.json was computed from, in words; None when it does not."""
    recorded, file = read_results(directory).get("samples_sha256"), directory / SAMPLES_FILE
    if recorded is None:
        return f"{RESULTS_FILE} holds no checksum of {SAMPLES_FILE}"
    if not file.is_file():
        return f"{SAMPLES_FILE} is missing"
    return None if fingerprint(file).sha256 == recorded else f"{SAMPLES_FILE} differs from its checksum"


def read_consistent_results(directory: Path) -> dict[str, Any]:
    """results.json of an evaluation whose samples.parquet is the one it was computed from.

    One without a checksum, written before there were any, passes. Raises ValueError.
    """
    results = read_results(directory)
    recorded, file = results.get("samples_sha256"), directory / SAMPLES_FILE
    if recorded is not None and file.is_file() and fingerprint(file).sha256 != recorded:
        raise ValueError(
            f"{file} is not the file that {RESULTS_FILE} beside it was computed from: its SHA-256 is another one. Put "
            f"the original back, or run `deepscaler regrade {directory}`, which grades the completions that are there "
            f"and computes {RESULTS_FILE} from them"
        )
    return results


def _write(content: Mapping[str, object], directory: Path) -> None:
    file = directory / SAMPLES_FILE
    samples = {"samples_sha256": fingerprint(file).sha256} if file.is_file() else {}
    text = json.dumps({**content, **samples}, indent=1, allow_nan=False) + "\n"
    write_atomically(directory / RESULTS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def add_clean_subset(directory: Path, contamination: Path) -> dict[str, Any]:
    """Write Pass@1 on the problems that a contamination record does not list into results.json; returns its content.

    Every benchmark that the record names gets `clean`. Raises ValueError when it names none of them.
    """
    record = breakdown.read_contamination(contamination)
    content = read_consistent_results(directory)
    found = [s for s in split_benchmarks(read_samples(directory, texts=False)) if s.name in record]
    if not found:
        raise ValueError(
            f"{contamination} names {', '.join(record) or 'no benchmark'}, the evaluation holds "
            f"{', '.join(content['benchmarks'])}; give the record that was made for these benchmarks"
        )
    for samples in found:
        content["benchmarks"][samples.name]["clean"] = breakdown.clean_subset(samples, record[samples.name])
    digest = hashlib.sha256(contamination.read_bytes()).hexdigest()
    content["contamination"] = {"file": contamination.name, "sha256": digest}
    _write(content, directory)
    return content


def _benchmark(
    samples: BenchmarkSamples,
    e: Estimate,
    settings: Mapping[str, object],
    equal: Equal,
) -> dict[str, Any]:
    outcomes = Counter(samples.column("outcome"))
    total = len(samples.rewards)
    tokens = breakdown.token_statistics(samples)
    repeated = breakdown.identical_rows(samples, samples.column(DIGEST))
    record = {
        **estimate_json(e),
        **rates_by_k(samples, equal),
        "num_completions": total,
        "truncated_frac": samples.column("finish_reason").count(FinishReason.LENGTH.value) / total,
        "no_answer_frac": outcomes[Outcome.NO_ANSWER.value] / total,
        "timeout_frac": outcomes[Outcome.TIMEOUT.value] / total,
        "outcomes": {o.value: outcomes[o.value] for o in Outcome},
        "length_mean": tokens["mean"] if tokens else None,
        "tokens": tokens,
        "budgets": breakdown.budget_curve(samples),
        "by_difficulty": breakdown.by_group(samples, breakdown.difficulty_labels(samples)),
        "by_source": breakdown.by_group(samples, breakdown.source_labels(samples)),
        "identical_frac": float(repeated.mean()),
    }
    record["warnings"] = warnings_of(samples, record, repeated, settings)
    return record


def rates_by_k(samples: BenchmarkSamples, equal: Equal) -> dict[str, dict[str, float]]:
    """pass@k, all_correct@k and maj@k, means over problems, for every k up to the fewest samples of a problem.

    Where problems have unequal numbers of samples, each is estimated from all it has.
    """
    counts = samples.sample_counts
    most = int(counts.min())
    right = np.rint(np.bincount(samples.problem_of_row, weights=samples.rewards > 0, minlength=len(counts)))
    groups = [(int(n), right[counts == n].astype(np.int64)) for n in np.unique(counts)]

    def mean(rate: Callable[[int, NDArray[np.int64], int], NDArray[np.float64]], k: int) -> float:
        return sum(float(rate(n, correct, k).sum()) for n, correct in groups) / len(counts)

    votes = _votes(samples, equal)
    shared = sorted(set.intersection(*(set(v) for v in votes)))
    return {
        "pass@k": {str(k): mean(pass_at_k, k) for k in range(1, most + 1)},
        "all_correct@k": {str(k): mean(all_correct_at_k, k) for k in range(1, most + 1)},
        "maj@k": {str(k): float(np.mean([v[k] for v in votes])) for k in shared if k <= most},
    }


def _votes(samples: BenchmarkSamples, equal: Equal) -> list[dict[int, float]]:
    answers, outcomes = samples.column("answer"), samples.column("outcome")
    votes, start = [], 0
    for count in samples.sample_counts.tolist():
        end = start + count
        votes.append(majority_at_k(answer_classes(answers[start:end], outcomes[start:end], equal)))
        start = end
    return votes


def warnings_of(
    samples: BenchmarkSamples, record: Mapping[str, Any], repeated: np.ndarray, settings: Mapping[str, object]
) -> list[str]:
    """What a reader of the score must know, in words."""
    total, outcomes = record["num_completions"], record["outcomes"]
    found = list(_repeats(samples, repeated)) if setting(settings, "temperature") != 0 else []
    if record["truncated_frac"] > SUSPICIOUS_FRAC:
        found.append(
            f"{record['truncated_frac']:.1%} of the completions were truncated at the budget and count as wrong"
        )
    if record["no_answer_frac"] > 0.5:
        found.append(f"{record['no_answer_frac']:.0%} have no answer: check chat template, prompt and answer format")
    unanswered = np.array([o == Outcome.NO_ANSWER.value for o in samples.column("outcome")])
    template = settings.get("template")
    prefilled = isinstance(template, Mapping) and bool(template.get("thinking_prefilled"))
    inside = {"yes", "prefilled"} if prefilled else {"yes"}
    if unanswered.any() and set(np.array(samples.column(BOXED))[unanswered]) <= inside:
        found.append(
            f"{_all(outcomes[Outcome.NO_ANSWER.value])} without an answer: a \\boxed{{}} inside the thoughts, and "
            "only what follows </think> is read: the model answers in its thoughts, or </think> is lost on the way"
        )
    for outcome, words in (
        (Outcome.TIMEOUT, "were not graded in time"),
        (Outcome.GRADER_FAILED, "made the grader fail"),
        (Outcome.BAD_REFERENCE, "have a reference that cannot be used"),
    ):
        if outcomes[outcome.value]:
            found.append(f"{_of(outcomes[outcome.value], total)} completions {words} and count as wrong")
    unknown = samples.column("finish_reason").count(UNKNOWN_FINISH)
    if unknown:
        found.append(f"{_of(unknown, total)} completions have no finish reason: some may have been truncated unnoticed")
    return [*found, *_unequal(samples, repeated)]


def _repeats(samples: BenchmarkSamples, repeated: np.ndarray) -> Iterator[str]:
    """Completions that are the same as another of their problem, where chance does not explain it."""
    possible = int((samples.sample_counts - 1).sum())
    copies = Counter(zip(samples.problem_of_row.tolist(), samples.column(DIGEST), strict=True))
    long = _long(samples)
    share = float(repeated[long].mean()) if long.any() else 0.0
    if breakdown.all_the_same(samples, samples.column(DIGEST)):
        yield (
            "all samples of every problem are the same text, so ± again is unknown: a sampler fault, a server that "
            "ignores seeds, or one answer counted several times"
        )
    elif min(copies.values()) > 1:
        yield f"every completion is there at least {min(copies.values())} times word for word: rows counted twice?"
    elif share > SUSPICIOUS_FRAC:
        yield f"{share:.0%} of the long completions repeat another sample of their problem: a sampler fault?"
    elif possible and repeated.sum() >= REPEATED_FRAC * possible:
        yield (
            f"{repeated.sum()} of {len(repeated)} completions repeat another sample of their problem word for word: "
            "the sampler or server may ignore seeds, or rows were counted twice"
        )


def _unequal(samples: BenchmarkSamples, repeated: np.ndarray) -> Iterator[str]:
    """Problems with fewer or more samples than is usual; more are more likely a row counted twice than one missing."""
    counts = samples.sample_counts
    if counts.min() == counts.max():
        return
    distinct = counts - np.bincount(samples.problem_of_row[repeated], minlength=len(counts))
    among = distinct if distinct.min() == distinct.max() else counts
    usual = max(Counter(among.tolist()).items(), key=lambda pair: (pair[1], pair[0]))[0]
    span = f"problems have {counts.min()} to {counts.max()} samples, most of them {usual}"
    fewer, more = int((counts < usual).sum()), int((counts > usual).sum())
    if fewer:
        yield f"{span}: completions of {counted(fewer, 'problem')} are missing"
    if more:
        yield f"{span}: were rows of {counted(more, 'problem')} counted twice?"


def _all(number: int) -> str:
    return "the one completion" if number == 1 else f"all {number} completions"


def _of(count: int, total: int) -> str:
    return "all" if count == total else f"{count} of {total}"


def _long(samples: BenchmarkSamples) -> np.ndarray:
    tokens: Sequence[int | None] = samples.column("num_tokens")
    lengths = zip(tokens, samples.column(CHARACTERS), strict=True)
    return np.array([c >= LONG_CHARACTERS if n is None else n >= LONG_TOKENS for n, c in lengths])
