"""A run in progress: its workers, its state, and what happens at the edges of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepscaler.config.models import Recipe, StageSection
from deepscaler.curriculum.controller import Curriculum, StageChange, StepObservation
from deepscaler.data.stream import ProblemStream
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.clock import StepClock
from deepscaler.observability.rollout_metrics import rollout_metrics
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.orchestration.collect import Collected
from deepscaler.orchestration.progress import Progress
from deepscaler.orchestration.stop import StopRequest
from deepscaler.orchestration.validation import Validation, evaluation_line, notes_on_base
from deepscaler.protocols import Fleet, Grader, Learner
from deepscaler.training.checkpoint import prune, save_checkpoint
from deepscaler.types import RunError, UpdateStats


class AlarmError(RunError):
    """A fatal alarm stopped the run; the message holds the figures and the remedy."""


@dataclass(slots=True)
class Run:
    """Everything the loop touches. `step` is the last completed one."""

    recipe: Recipe
    recipe_digest: str
    learner: Learner
    fleet: Fleet
    grader: Grader
    stream: ProblemStream
    curriculum: Curriculum
    alarms: Alarms
    directory: RunDirectory
    progress: Progress
    stop: StopRequest
    validation: Validation | None
    num_processes: int
    save_tokenizer: Callable[[Path], object]
    step: int = 0
    stage_ends: list[int] = field(default_factory=list)

    @property
    def num_updates(self) -> int:
        """Optimizer updates per step."""
        mini_batch = self.recipe.optimizer.mini_batch_prompts
        return self.recipe.rollout.prompts_per_step // mini_batch if mini_batch else 1

    @property
    def checkpoints(self) -> Path:
        return self.directory.path / "checkpoints"

    def start_step(self, step: int, stage: StageSection) -> StepClock:
        self.progress.start_step(step, self.recipe.num_steps, stage)
        return StepClock()

    def record(self, collected: Collected, stats: UpdateStats, clock: StepClock) -> StageChange | None:
        """Write the step's files, raise its alarms, and ask the curriculum. Raises AlarmError for a fatal alarm."""
        stage = self.curriculum.stage
        metrics: dict[str, Any] = {
            "stage": stage.name,
            "max_completion_tokens": stage.max_completion_tokens,
            **rollout_metrics(collected.sampled),
            **stats.metrics,
            **clock.metrics(),
            "num_refills": collected.num_refills,
            "num_trained_groups": len(collected.trained),
        }
        for group in collected.sampled:
            self.stream.note(group.group.problem.id, solved=all(v.reward == 1.0 for v in group.verdicts))
        self.directory.write_rollouts(self.step, stage.name, collected.sampled)
        self.directory.log_step(self.step, metrics)
        self.progress.end_step(self.step, metrics)
        for alarm in self.alarms.observe(self.step, metrics):
            self.directory.log_event(self.step, "alarm", f"{alarm.name}: {alarm.reason}", {})
            self.progress.message(f"ALARM {alarm.name}: {alarm.reason}. {alarm.remedy}")
            if alarm.fatal and self.recipe.alarms.stop:
                raise AlarmError(f"stopped at step {self.step}: {alarm.reason}. {alarm.remedy}")
        return self.curriculum.observe(_observation(self.step, metrics))

    def begin_stage(self, change: StageChange) -> None:
        """Restart for the new stage what its section says restarts cold."""
        stage = self.curriculum.stage
        self.stage_ends.append(self.step)
        self.learner.begin_stage(reset_optimizer=stage.reset_optimizer, reset_reference=stage.reset_reference)
        self.alarms.forget_trend()
        start = self.stream.begin_stage(self.curriculum.stage_index, reshuffle=stage.reshuffle)
        figures = {**change.figures, "num_problems": start.num_problems, "num_dropped_solved": start.num_dropped}
        self.directory.log_event(self.step, "stage_change", change.reason, figures)
        self.progress.message(f"stage {change.from_stage} -> {change.to_stage}: {change.reason}")
        if stage.drop_solved:
            self.progress.message(f"{start.num_dropped} solved problems left out, {start.num_problems} remain")
        for source in start.kept:
            self.progress.message(
                f"note: solved problems of {source or self.recipe.data.source} stay in: without them too few are left"
            )

    def evaluation_due(self) -> bool:
        every = self.recipe.evaluation.every_steps
        return bool(every) and self.step % every == 0

    def checkpoint_due(self) -> bool:
        return self.stop.requested or self.step % self.recipe.checkpoint.every_steps == 0

    def evaluate(self, stage: StageSection) -> None:
        """Pass@1 on the validation sets, none of whose problems is trained on."""
        if self.validation is None:
            return
        results = self.validation.evaluate(self.step, stage.name, self.learner.weights_info().digest)
        self.directory.log_evaluation(self.step, evaluation_line(results, stage.name))
        if self.step == 0:
            for text in notes_on_base(results):
                self.progress.message(text)

    def save(self) -> None:
        """Commit a checkpoint, then drop the ones no longer needed."""

        def write(directory: Path) -> None:
            self.learner.save(directory)
            self.save_tokenizer(directory)

        save_checkpoint(self.checkpoints, self.step, self.state_dict(), write)
        prune(self.checkpoints, self.recipe.checkpoint.keep, {0, *self.stage_ends})

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "stage_ends": self.stage_ends,
            "curriculum": self.curriculum.state_dict(),
            "stream": self.stream.state_dict(),
            "alarms": self.alarms.state_dict(),
            "recipe_digest": self.recipe_digest,
            "num_processes": self.num_processes,
        }

    def load(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; the engine gets the weights by the ordinary, checked publish."""
        self.learner.load(checkpoint)
        self.step = state["step"]
        self.stage_ends = list(state["stage_ends"])
        self.curriculum.load_state_dict(state["curriculum"])
        self.stream.load_state_dict(state["stream"])
        self.alarms.load_state_dict(state["alarms"])
        self.fleet.publish_weights(self.learner)
        self.directory.log_event(self.step, "resume", f"continued after step {self.step}", {})
        if state["num_processes"] != self.num_processes:
            self.progress.message(
                f"note: {state['num_processes']} processes before, {self.num_processes} now; sums are rounded in "
                "another order, so the run goes on equal within rounding, not bit by bit (training.processes)"
            )


def _observation(step: int, metrics: Mapping[str, Any]) -> StepObservation:
    return StepObservation(
        step=step,
        truncated_frac=metrics["truncated_frac"],
        reward_mean=metrics["reward_mean"],
        length_correct_mean=metrics.get("length_correct_mean"),
        length_wrong_mean=metrics.get("length_wrong_mean"),
    )
