"""The problems of an evaluation with the hashes that say exactly which they were."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.config.evaluation import SuiteSection
from deepscaler.data.benchmarks import load_benchmark, row_hash
from deepscaler.randomness import generator
from deepscaler.types import Problem


@dataclass(frozen=True, slots=True)
class Datasets:
    """identity: per benchmark what tells its content apart, part of the settings.

    row_hashes: per benchmark, in the order of the problems. warnings: what a reader of the scores must be told.
    """

    sets: Mapping[str, Sequence[Problem]]
    identity: Mapping[str, Mapping[str, Any]]
    row_hashes: Mapping[str, Sequence[str]]
    warnings: tuple[str, ...] = ()


def load_suite(suite: SuiteSection, directory: Path) -> Datasets:
    """The suite's benchmarks from the files in `directory`. Raises DataError for a file that is missing or changed."""
    if not directory.is_dir():
        raise ValueError(f"--benchmarks {directory} is no directory; name the one that holds the benchmark files")
    sets: dict[str, Sequence[Problem]] = {}
    files: dict[str, str] = {}
    warnings: list[str] = []
    for name in suite.benchmarks:
        loaded = load_benchmark(name, directory, corrected=suite.corrected)
        sets[name] = loaded.problems[: suite.limit]
        files[name] = loaded.sha256
        warnings += [f"{name}: {text}" for text in loaded.warnings]
    return describe(sets, files, tuple(warnings))


def describe(
    sets: Mapping[str, Sequence[Problem]], files: Mapping[str, str] | None = None, warnings: tuple[str, ...] = ()
) -> Datasets:
    """Problems with their hashes; `files`: SHA-256 of the files they came from, where there are any."""
    row_hashes = {name: [row_hash(p) for p in problems] for name, problems in sets.items()}
    identity = {
        name: {
            **({"file_sha256": files[name]} if files else {}),
            "rows_sha256": hashlib.sha256("\n".join(row_hashes[name]).encode()).hexdigest(),
            "num_problems": len(problems),
        }
        for name, problems in sets.items()
    }
    return Datasets(sets, identity, row_hashes, warnings)


def validation_subset(
    names: Sequence[str], directory: Path, count: int, training: Iterable[Problem]
) -> tuple[dict[str, list[Problem]], int]:
    """(`count` problems of each benchmark, or all of a shorter one; problems left out because training holds them).

    The choice is a function of the benchmark. Texts are compared by their letters and digits alone. Raises DataError.
    """
    trained = {_letters(problem.prompt) for problem in training}
    sets: dict[str, list[Problem]] = {}
    left_out = 0
    for name in names:
        problems = load_benchmark(name, directory).problems
        held_out = [p for p in problems if _letters(p.prompt) not in trained]
        left_out += len(problems) - len(held_out)
        order = generator("validation subset", name).permutation(len(held_out))[:count]
        sets[name] = [held_out[i] for i in sorted(order.tolist())]
    return sets, left_out


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
