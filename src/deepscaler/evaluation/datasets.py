"""The problems of an evaluation with the hashes that say exactly which they were."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepscaler.config.evaluation import SUITES, EvalRecipe, SuiteSection
from deepscaler.data.benchmarks.load import BENCHMARKS, load_benchmark, row_hash
from deepscaler.data.benchmarks.own import find_own, load_own
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
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
    for entry in suite.benchmarks:
        if entry in BENCHMARKS:
            loaded = load_benchmark(entry, directory, corrected=suite.corrected)
        else:
            loaded = load_own(find_own(entry, directory, (*SUITES, *BENCHMARKS)))
        if loaded.name in sets:
            raise ValueError(f"two benchmarks of the suite are called {loaded.name}; rename or remove one of them")
        sets[loaded.name] = limited(loaded.name, loaded.problems, suite.limit, suite.limit_seed)
        part = len(sets[loaded.name]) < len(loaded.problems) and loaded.name not in BENCHMARKS
        origins[loaded.name] = {**loaded.origin, **({"num_whole": len(loaded.problems)} if part else {})}
        warnings += [f"{loaded.name}: {text}" for text in loaded.warnings]
    return describe(sets, origins, tuple(warnings))


def limited(name: str, problems: Sequence[Problem], limit: int | None, seed: int | None) -> Sequence[Problem]:
    """All problems, the first `limit`, or with a seed a random subset of so many, in the order of the file.

    A subset of more problems with the same seed holds that of fewer.
    """
    if limit is None or limit >= len(problems) or seed is None:
        return problems[:limit]
    chosen = generator("limit", seed, name).permutation(len(problems))[:limit]
    return [problems[i] for i in sorted(chosen.tolist())]


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
    part = "" if recipe.suite.limit is None else " (--limit)"
    part = part if recipe.suite.limit_seed is None else f" (a random subset, --limit-seed {recipe.suite.limit_seed})"
    return (
        f"evaluating {sets}{part}: {counted(s.num_samples, 'sample')} each, temperature {s.temperature:g}, top-p "
        f"{s.top_p:g}, up to {counted(s.max_completion_tokens, 'token')}"
    )
