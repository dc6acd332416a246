"""A run of supervised fine-tuning: its steps, records and checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.config.supervised import SftRecipe
from deepscaler.loop.inputs import Inputs
from deepscaler.loop.progress import Progress, duration, speed
from deepscaler.loop.stop import StopRequest
from deepscaler.observability.clock import StepClock
from deepscaler.observability.counts import counted
from deepscaler.observability.memory import resident_bytes
from deepscaler.observability.run_directory import RECIPE_FILE, RunDirectory
from deepscaler.report import write_report
from deepscaler.sft.dataset import Batches, TraceSet
from deepscaler.sft.learner import SftLearner
from deepscaler.training.checkpoint import prune, save_checkpoint

REPORT_FILE = "report.html"


@dataclass(slots=True)
class SftRun:
    """Everything that the steps use. `step` is the last completed one."""

    recipe: SftRecipe
    recipe_digest: str
    learner: SftLearner
    batches: Batches
    traces: TraceSet
    validation: TraceSet | None
    inputs: Inputs
    num_processes: int
    directory: RunDirectory
    progress: Progress
    stop: StopRequest
    save_tokenizer: Callable[[Path], object]
    step: int = 0
    _began: float | None = None  # the end of the first step here, which waits for processes to start
    _done_here: int = -1

    @property
    def num_steps(self) -> int:
        return self.batches.num_steps

    @property
    def finished(self) -> bool:
        """All steps are done, or someone asked to stop."""
        return self.step >= self.num_steps or self.stop.requested

    @property
    def checkpoints(self) -> Path:
        return self.directory.path / "checkpoints"

    def begin(self) -> None:
        """The validation loss of the model as it came, of a new run."""
        if self.step == 0 and self.validation is not None:
            clock = StepClock()
            loss = self._validated(clock)
            self.directory.log_evaluation(0, {"stage": "sft", "validation_loss": loss, **clock.metrics()})
            self.progress.message(f"validation loss {loss:.4f} before the first step")

    def one_step(self) -> None:
        clock, step = StepClock(), self.step + 1
        samples = [self.traces.samples[index] for index in self.batches.indices(step)]
        with clock.phase("update"):
            update = self.learner.update(step, samples)
        self.step = step
        self._done_here += 1
        figures: dict[str, Any] = {"stage": "sft", "epoch": self.batches.epoch_of(step), **update.metrics}
        if self._validation_due():
            figures["validation_loss"] = self._validated(clock)
            self.progress.message(f"validation loss {figures['validation_loss']:.4f} after step {step}")
        figures["driver_memory_mib"] = resident_bytes() / 2**20
        self.directory.log_step(step, {**figures, **clock.metrics()})
        self._show(update.loss, update.num_trained_tokens / max(clock.seconds("update"), 1e-9))
        if self.stop.requested or step == self.num_steps or step % self.recipe.checkpoint.every_steps == 0:
            self.save()

    def _validation_due(self) -> bool:
        every = self.recipe.sft.validate_every_steps
        due = self.step == self.num_steps or (every > 0 and self.step % every == 0)
        return self.validation is not None and due

    def _validated(self, clock: StepClock) -> float:
        assert self.validation is not None
        with clock.phase("validate"):
            return self.learner.mean_loss(self.validation.samples)

    def _show(self, loss: float, tokens_per_s: float) -> None:
        if self._began is None:
            self._began = time.monotonic()
        seconds = (time.monotonic() - self._began) / max(1, self._done_here)
        left = duration(seconds * (self.num_steps - self.step)) if self._done_here else "-"
        self.progress.update(
            f"sft {self.step}/{self.num_steps}  epoch {self.batches.epoch_of(self.step)}/{self.recipe.sft.epochs}"
            f"  loss {loss:.4f}  {speed(tokens_per_s)}  left {left}",
            force=self.step == self.num_steps,
        )

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Record how the run ended: `finished`, or `stop` with the reason; a killed process leaves no such line."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            with suppress(OSError):  # a full disk may be what ended the run
                self.directory.log_event(self.step, "stop", str(error) or type(error).__name__, {})
            raise
        if self.step >= self.num_steps:
            reason = f"all {counted(self.num_steps, 'step')} are done"
            self.directory.log_event(self.step, "finished", reason, {})
        else:
            self.directory.log_event(self.step, "stop", "stopped on request, after the step and its checkpoint", {})
        write_report([self.directory.path], self.directory.path / REPORT_FILE)

    def save(self) -> None:
        """Commit a checkpoint, a model directory as well, then drop the ones no longer needed."""

        def write(directory: Path) -> None:
            self.learner.save(directory)
            self.save_tokenizer(directory)
            recipe = json.dumps(self.recipe.model_dump(mode="json"), indent=1)
            (directory / RECIPE_FILE).write_text(recipe + "\n")
            self.directory.write_records(directory)

        self.directory.sync()
        save_checkpoint(self.checkpoints, self.step, self.state_dict(), write)
        prune(self.checkpoints, self.recipe.checkpoint.keep, {self.num_steps})

    def state_dict(self) -> dict[str, Any]:
        return {
            "kind": "sft",
            "step": self.step,
            "recipe_digest": self.recipe_digest,
            "inputs": self.inputs.as_json(),
            "traces": self.traces.digest,
            "num_processes": self.num_processes,
        }


def train(run: SftRun) -> int:
    """Train until the last step or a stop request; returns the last completed step.

    What a step trains on is a function of seed and step, so a run killed anywhere in here continues exactly.
    """
    with run.ending():
        run.begin()
        while not run.finished:
            run.one_step()
    return run.step
