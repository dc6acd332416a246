"""Evaluations inside training: what `deepscaler eval` does, on held-out problems, with the weights of a step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from deepscaler.config.evaluation import EvalRecipe
from deepscaler.data.templates import TemplateFingerprint
from deepscaler.evaluation.completions import Source
from deepscaler.evaluation.datasets import Datasets
from deepscaler.evaluation.results import find_changed_samples
from deepscaler.evaluation.samples import RESULTS_FILE, SAMPLES_FILE, read_results
from deepscaler.evaluation.store import JOURNAL, SETTINGS_FILE
from deepscaler.json_text import differences
from deepscaler.loop.evaluate import Job, run_job
from deepscaler.loop.held_out_sets import test_sets
from deepscaler.loop.progress import Progress
from deepscaler.observability.problem_texts import PROBLEMS_FILE
from deepscaler.observability.run_directory import read_json
from deepscaler.protocols import Grader


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Everything an evaluation inside training needs but the weights, which `source` samples with.

    engine: its fingerprint. directory: RUN/evaluations; an evaluation goes to step-NNNNNN in it.
    """

    recipe: EvalRecipe
    datasets: Datasets
    source: Source
    grader: Grader
    engine: Mapping[str, object]
    template: TemplateFingerprint
    directory: Path
    progress: Progress

    def evaluate(self, step: int, stage: str, weights_sha256: str) -> dict[str, object]:
        """What results.json holds after `step`. What an earlier process made with the same weights is not made again.

        Of a whole evaluation samples.parquet stays and the journal goes: a run has many evaluations.
        """
        path = self._path(step)
        job = Job(self.recipe, self.datasets, path, self.progress)
        settings = job.settings({"weights_sha256": weights_sha256}, self.engine, asdict(self.template))
        self._move_aside_what_differs(path, settings)
        self._move_aside_what_is_damaged(path)
        if not (path / RESULTS_FILE).is_file():
            tests = test_sets(self.datasets)
            run_job(
                job,
                settings,
                lambda: nullcontext(self.source),
                self.grader,
                model={"name": f"{self.recipe.name}, step {step}"},
                thinking_prefilled=self.template.thinking_prefilled,
                metadata={
                    "inside_training": {"step": step, "stage": stage, "test_sets": tests, "chooses_checkpoint": False}
                },
            )
        shutil.rmtree(path / JOURNAL, ignore_errors=True)
        return read_results(path)

    def files_of(self, step: int) -> list[Path]:
        """What an evaluation keeps."""
        names = (SETTINGS_FILE, SAMPLES_FILE, PROBLEMS_FILE, RESULTS_FILE)
        return [file for name in names if (file := self._path(step) / name).is_file()]

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def _move_aside_what_differs(self, path: Path, settings: Mapping[str, object]) -> None:
        """A step done again may have other weights, in the last bits, or other settings that may change on resume."""
        stored = read_json(path / SETTINGS_FILE)
        changes = differences(stored.get("settings", {}), settings) if stored is not None else []
        if changes:
            self._move_aside(path, f"was made with other settings ({changes[0].words()})")

    def _move_aside_what_is_damaged(self, path: Path) -> None:
        """A finished evaluation whose samples are no longer those that its results were computed from."""
        if (path / RESULTS_FILE).is_file() and (damage := find_changed_samples(path)):
            self._move_aside(path, f"is damaged ({damage}) and is made again")

    def _move_aside(self, path: Path, reason: str) -> None:
        number = 1
        while (aside := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        path.rename(aside)
        self.progress.message(f"{path} {reason}: kept as {aside.name}")
