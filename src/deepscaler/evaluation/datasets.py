"""The problems of an evaluation with the hashes that say exactly which they were."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepscaler.config.evaluation import EvalRecipe, SuiteSection
from deepscaler.data.benchmarks.load import load_benchmark, row_hash
from deepscaler.observability.counts import counted
from deepscaler.types import Problem

Origins = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Datasets:
    """identity: per benchmark what tells its content apart, part of the settings.

    row_hashes: per benchmark, in the order of the problems. warnings: what a reader of the scores must be told.
    """

    sets: Mapping[str, Sequence[Problem]]
    identity: Mapping[str, Mapping[str, object]]
    row_hashes: Mapping[str, Sequence[str]]
    warnings: tuple[str, ...] = ()


def load_suite(suite: SuiteSection, directory: Path | None) -> Datasets:
    """The suite's benchmarks from the files in `directory`, without one from the hub.

    Raises DataError for a file that is missing or changed, and where the hub cannot be reached.
    """
    if directory is not None and not directory.is_dir():
        raise ValueError(f"--benchmarks {directory} is no directory; name the one that holds the benchmark files")
    sets: dict[str, Sequence[Problem]] = {}
    origins: dict[str, Mapping[str, object]] = {}
    warnings: list[str] = []
    for name in suite.benchmarks:
        loaded = load_benchmark(name, directory, corrected=suite.corrected)
        sets[name] = loaded.problems[: suite.limit]
        origins[name] = loaded.origin
        warnings += [f"{name}: {text}" for text in loaded.warnings]
    return describe(sets, origins, tuple(warnings))


def describe(
    sets: Mapping[str, Sequence[Problem]], origins: Origins | None = None, warnings: tuple[str, ...] = ()
) -> Datasets:
    """Problems with their hashes. origins: by set, what says where it came from and what that held then."""
    row_hashes = {name: [row_hash(p) for p in problems] for name, problems in sets.items()}
    identity = {
        name: {
            **(origins or {}).get(name, {}),
            "rows_sha256": hashlib.sha256("\n".join(row_hashes[name]).encode()).hexdigest(),
            "num_problems": len(problems),
        }
        for name, problems in sets.items()
    }
    return Datasets(sets, identity, row_hashes, warnings)


def announced(datasets: Datasets, recipe: EvalRecipe) -> str:
    """`evaluating aime24 (30 problems), …: 16 samples each, temperature 0.6, …`, for the screen."""
    sets = ", ".join(f"{name} ({counted(len(problems), 'problem')})" for name, problems in datasets.sets.items())
    s = recipe.sampling
    limited = " (--limit)" if recipe.suite.limit is not None else ""
    return (
        f"evaluating {sets}{limited}: {counted(s.num_samples, 'sample')} each, temperature {s.temperature:g}, top-p "
        f"{s.top_p:g}, up to {counted(s.max_completion_tokens, 'token')}"
    )
