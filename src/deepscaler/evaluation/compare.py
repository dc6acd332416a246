"""Two evaluations of the same problems, paired by problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.data.benchmarks.specs import BENCHMARKS
from deepscaler.evaluation.benchmark_samples import BenchmarkSamples, Floats, split_benchmarks
from deepscaler.evaluation.breakdown import UNKNOWN_RESAMPLING, source_labels
from deepscaler.evaluation.estimators import Estimate, combine_sets, estimate, source_clusters
from deepscaler.evaluation.paired import Difference, combine_differences, holm, paired_difference
from deepscaler.evaluation.results import read_consistent_results
from deepscaler.evaluation.samples import model_name, read_samples, setting
from deepscaler.json_text import differences
from deepscaler.observability.counts import counted

CONDITIONS = ("temperature", "top_p", "top_k", "max_completion_tokens")
MAX_NAMED = 3  # ids named in a message


@dataclass(frozen=True, slots=True)
class Side:
    """One evaluation as read from its directory. results: the content of its results.json. name: given by a person."""

    path: Path
    settings: Mapping[str, Any]
    benchmarks: dict[str, BenchmarkSamples]
    row_hashes: Mapping[str, Any]
    results: Mapping[str, Any]
    name: str = ""

    def figure(self, benchmark: str, name: str) -> Any:
        """What results.json says of a benchmark, of all its problems; None where it does not."""
        return self.results["benchmarks"].get(benchmark, {}).get(name)

    @property
    def conditions(self) -> dict[str, Any]:
        """Sampling settings that a score depends on; None where they are not recorded."""
        return {name: setting(self.settings, name) for name in CONDITIONS}

    @property
    def warnings(self) -> list[str]:
        """Everything its results.json warns about, those of a benchmark with its name before."""
        found: dict[str, list[str]] = {}
        for name in self.results["benchmarks"]:
            for text in self.figure(name, "warnings") or ():
                found.setdefault(text, []).append(name)
        return [f"{', '.join(names)}: {text}" for text, names in found.items()] + [*self.results.get("warnings", [])]

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        name = model_name(self.settings)
        return f"{name} ({self.path})" if name and name != str(self.path) else str(self.path)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Problems of a benchmark that could not be paired: in one evaluation only, or not the same question."""

    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.only_before) + len(self.only_after) + len(self.changed)

    def words(self) -> str:
        parts = {
            "only in the first": self.only_before,
            "only in the second": self.only_after,
            "with other references or content": self.changed,
        }
        return "; ".join(f"{len(ids)} {where} ({_some(ids)})" for where, ids in parts.items() if ids)


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """One benchmark on its paired problems. before_means, after_means: float64 [P]; p_holm over all benchmarks."""

    name: str
    problem_ids: tuple[str, ...]
    before_means: Floats
    after_means: Floats
    before: Estimate
    after: Estimate
    difference: Difference
    p_holm: float
    unpaired: Unpaired

    @property
    def num_whole(self) -> int | None:
        """Problems of the whole benchmark; None where it is not a registered one."""
        return BENCHMARKS[self.name].num_problems if self.name in BENCHMARKS else None

    @property
    def is_part(self) -> bool:
        return self.num_whole is not None and self.before.num_problems < self.num_whole

    @property
    def se_resampling(self) -> float:
        """Standard error of the difference over new samples of these problems; NaN with one sample per problem."""
        return math.hypot(self.before.se_resampling, self.after.se_resampling)


@dataclass(frozen=True, slots=True)
class Comparison:
    """after - before. skipped: benchmarks without paired problems, and why."""

    before: Side
    after: Side
    benchmarks: dict[str, BenchmarkComparison]
    average_before: Estimate
    average_after: Estimate
    total: Difference
    skipped: dict[str, str]
    settings_differ: tuple[str, ...]

    @property
    def drawn(self) -> frozenset[str]:
        """Benchmarks of which a random subset was asked."""
        seeded = any(setting(side.settings, "limit_seed") is not None for side in (self.before, self.after))
        return frozenset(name for name, c in self.benchmarks.items() if c.is_part) if seeded else frozenset()

    @property
    def se_resampling(self) -> float:
        """As of a benchmark, for the average."""
        return math.hypot(self.average_before.se_resampling, self.average_after.se_resampling)


def read_side(directory: Path, name: str = "") -> Side:
    """Raises ValueError when the directory holds no finished evaluation, or one whose samples are other ones."""
    results = read_consistent_results(directory)
    samples = split_benchmarks(read_samples(directory, texts=False))
    benchmarks = {s.name: s for s in samples}
    return Side(directory, results.get("settings", {}), benchmarks, results.get("row_hashes", {}), results, name)


def compare_directories(
    before: Path, after: Path, *, common: bool = False, names: tuple[str, str] = ("", "")
) -> Comparison:
    """Compare what `deepscaler eval` wrote. names: what the two are called instead of by model and path.

    Raises ValueError when the two hold different benchmarks or problems, unless `common`: then only what both hold is
    compared, and the result says what was left out.
    """
    return compare_sides(read_side(before, names[0]), read_side(after, names[1]), common=common)


def compare_sides(before: Side, after: Side, *, common: bool = False) -> Comparison:
    names = list(dict.fromkeys([*before.benchmarks, *after.benchmarks]))
    single = {n: "the second" if n in before.benchmarks else "the first" for n in names if _lacks(n, before, after)}
    if single and not common:
        where = ", ".join(f"{name} is missing from {side}" for name, side in single.items())
        raise ValueError(
            f"the evaluations hold different sets: {where}. Evaluate both on the same benchmarks, or compare what both "
            "hold with --common"
        )
    skipped = {name: f"missing from {side}" for name, side in single.items()}
    paired: dict[str, BenchmarkComparison] = {}
    for name in names:
        if name in single:
            continue
        unpaired, shared = match_problems(name, before, after)
        if len(unpaired) and not common:
            raise ValueError(
                f"set {name}: {counted(len(unpaired), 'problem')} cannot be paired: {unpaired.words()}. Evaluate both "
                "on the same problems, or compare the shared ones with --common"
            )
        if shared:
            paired[name] = compare_benchmark(name, before, after, shared, unpaired)
        else:
            skipped[name] = f"no problem can be paired: {unpaired.words()}"
    if not paired:
        raise ValueError(f"{before.path} and {after.path} have no problem in common")
    _adjust(paired)
    return Comparison(
        before=before,
        after=after,
        benchmarks=paired,
        average_before=combine_sets([c.before for c in paired.values()]),
        average_after=combine_sets([c.after for c in paired.values()]),
        total=combine_differences([c.difference for c in paired.values()]),
        skipped=skipped,
        settings_differ=tuple(differing_settings(before.settings, after.settings)),
    )


def _lacks(name: str, before: Side, after: Side) -> bool:
    return name not in before.benchmarks or name not in after.benchmarks


def match_problems(name: str, before: Side, after: Side) -> tuple[Unpaired, list[str]]:
    """What cannot be paired, and the ids of what can: same id, references, tolerance and, where known, content."""
    first, second = _identities(before, name), _identities(after, name)
    shared = [identity for identity in first if identity in second]
    changed = tuple(identity for identity in shared if first[identity] != second[identity])
    unpaired = Unpaired(
        only_before=tuple(i for i in first if i not in second),
        only_after=tuple(i for i in second if i not in first),
        changed=changed,
    )
    return unpaired, [identity for identity in shared if identity not in set(changed)]


def _identities(side: Side, name: str) -> dict[str, tuple[Any, ...]]:
    samples = side.benchmarks[name]
    references = samples.of_problems(samples.column("references"))
    tolerances = samples.of_problems(samples.column("tolerance"))
    hashes = _hashes(side.row_hashes.get(name), samples)
    return {
        identity: (hashes.get(identity), tuple(refs), tolerance)
        for identity, refs, tolerance in zip(samples.problem_ids, references, tolerances, strict=True)
    }


def _hashes(recorded: Any, samples: BenchmarkSamples) -> dict[str, str]:
    """problem id -> hash of its question, from a list in the order of the problems.

    Empty where none were recorded, or where a problem without any sample leaves open which hash is whose.
    """
    if not isinstance(recorded, list) or len(recorded) != len(samples.problem_ids):
        return {}
    return dict(zip(samples.problem_ids, recorded, strict=True))


def compare_benchmark(
    name: str, before: Side, after: Side, shared: Sequence[str], unpaired: Unpaired
) -> BenchmarkComparison:
    """One benchmark on its shared problems; p_holm is left open."""
    first, second = (side.benchmarks[name] for side in (before, after))
    order_first, order_second = _places(first, shared), _places(second, shared)
    sources = source_labels(first)
    clusters = source_clusters([sources[i] for i in order_first])
    before_means, after_means = first.means[order_first], second.means[order_second]
    return BenchmarkComparison(
        name=name,
        problem_ids=tuple(shared),
        before_means=before_means,
        after_means=after_means,
        before=_estimate(before, name, first.reward_matrix[order_first], clusters),
        after=_estimate(after, name, second.reward_matrix[order_second], clusters),
        difference=paired_difference(before_means, after_means, clusters_P=clusters),
        p_holm=math.nan,
        unpaired=unpaired,
    )


def _estimate(side: Side, name: str, rewards: Floats, clusters: NDArray[np.int64] | None) -> Estimate:
    """Where results.json says that re-sampling is unknown, its samples being copies, it is unknown here."""
    e = estimate(rewards, clusters)
    known = side.figure(name, "se_resampling") is not None
    return e if known else replace(e, **UNKNOWN_RESAMPLING)


def _adjust(paired: dict[str, BenchmarkComparison]) -> None:
    adjusted = holm([c.difference.p_value for c in paired.values()])
    for (name, c), p in zip(list(paired.items()), adjusted, strict=True):
        fields = {field: getattr(c, field) for field in BenchmarkComparison.__slots__}
        paired[name] = BenchmarkComparison(**{**fields, "p_holm": p})


def _places(samples: BenchmarkSamples, ids: Sequence[str]) -> np.ndarray:
    numbers = {identity: number for number, identity in enumerate(samples.problem_ids)}
    return np.array([numbers[i] for i in ids], dtype=np.int64)


# What says which model, where and when; it differs by intention. Questions are compared one by one.
EXPECTED_TO_DIFFER = ("model", "recipe", "seed", "template", "versions", "endpoint", "datasets", "imported")


def differing_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`temperature: 0.6 and 1.0` for every setting that should be the same and is not."""
    return [
        f"{one.key}: {one.before} and {one.after}"
        for one in differences(before, after)
        if not any(part in EXPECTED_TO_DIFFER for part in one.key.split("."))
    ]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_NAMED]) + (", …" if len(ids) > MAX_NAMED else "")
