"""A run: its workers, its state, and the work before and after a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.curriculum.controller import Curriculum, StageChange
from deepscaler.data.stream import ProblemStream
from deepscaler.loop.experience import Collected, Experience, MakeSamples, Step
from deepscaler.loop.inputs import Inputs
from deepscaler.loop.progress import Progress
from deepscaler.loop.publishing import Canary, load_checked
from deepscaler.loop.step_records import evaluation_line, notes_on_base, observation, step_metrics
from deepscaler.loop.stop import StopRequest
from deepscaler.loop.watchdog import StalledError
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.clock import StepClock
from deepscaler.observability.counts import counted
from deepscaler.observability.memory import MemoryWatch, available_bytes, resident_bytes
from deepscaler.observability.part_metrics import PartFailure, part_failures
from deepscaler.observability.rollout_metrics import rollout_stats
from deepscaler.observability.run_directory import RECIPE_FILE, REWARD_FAILURES_FILE, RunDirectory
from deepscaler.observability.step_stats import StepStats, step_stats
from deepscaler.protocols import Cluster, Future, PublishedWeights, Validation
from deepscaler.rewards.registry import REWARDS
from deepscaler.training.checkpoint import prune
from deepscaler.training.checkpoint_writer import CheckpointWriter
from deepscaler.types import (
    IntArray,
    PartOutcome,
    RunError,
    TrainSample,
    UpdateStats,
    WeightsInfo,
    WorkerLost,
)

BASE_MODEL_FILE = "base_model.json"
ADAPTER_BASE_FILE = "adapter_base.json"  # where a checkpoint holds adapters: path and digest of their base


class AlarmError(RunError):
    """A fatal alarm stopped the run; the message holds the figures and the remedy."""


@dataclass(slots=True)
class Run:
    """Everything that the loop uses. `step` is the last completed one."""

    recipe: Recipe
    recipe_digest: str
    cluster: Cluster
    experience: Experience
    make_samples: MakeSamples
    weights: PublishedWeights  # the newest
    stream: ProblemStream
    curriculum: Curriculum
    alarms: Alarms
    directory: RunDirectory
    saves: CheckpointWriter
    progress: Progress
    stop: StopRequest
    validation: Validation | None
    save_tokenizer: Callable[[Path], object]
    decode_prompt: Callable[[IntArray], str]  # with special tokens
    inputs: Inputs
    base_model: Path
    canary: Canary | None = None  # where learner and engine compute with different code
    published: dict[str, float] = field(default_factory=dict)  # metrics of the newest publish
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    told_failures: set[tuple[str, PartOutcome]] = field(default_factory=set)
    step: int = 0
    first_step: int = 0  # what the directory began with; above 0 for a run that went on from another one's checkpoint
    origin: dict[str, Any] | None = None  # of such a run
    stage_ends: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)  # last steps of earlier num_steps: somebody's trained models

    @property
    def grader_version(self) -> str:
        return REWARDS[self.recipe.grader.profile].version

    @property
    def finished(self) -> bool:
        """All steps are done, or someone asked to stop."""
        return self.step >= self.recipe.num_steps or self.stop.requested

    def begin(self) -> None:
        """First evaluation and checkpoint of a new run."""
        if self.step == self.first_step:
            self.evaluate(self.curriculum.stage)
            self.save()

    def begin_step(self) -> Step:
        """Raises CheckpointError where a save in the background has failed."""
        self.saves.check()
        step = Step(self.step + 1, self.curriculum.stage, StepClock())
        self.progress.start_step(step.number, self.recipe.num_steps, step.stage)
        return step

    def publish(self) -> WeightsInfo:
        """Publish the weights of the learner to the sampler. Raises RunError if it does not hold them afterwards."""
        self.weights = self.cluster.learner.publish()
        held = load_checked(self.cluster.sampler, self.weights)
        self.published = {"publish_bytes": float(held.num_bytes)} if held.num_bytes else {}
        if self.canary is not None:
            self.published |= self.canary.check(self.cluster.sampler, held.version)
        return held

    def end_step(
        self,
        step: Step,
        collected: Collected,
        mini_batches: Sequence[Sequence[TrainSample]],
        update: UpdateStats,
        weights: WeightsInfo,
    ) -> None:
        """Write the files of the step; evaluate, change the stage and save if due. Raises AlarmError."""
        self.step = step.number
        self._watch_memory()
        self._tell_notices()
        change = self._record(step, collected, mini_batches, update, weights)
        last = step.number == self.recipe.num_steps
        if last or change is not None or self._evaluation_due():
            self.evaluate(step.stage)
        if change is not None:
            self._begin_stage(change)
        if last or change is not None or self._checkpoint_due():
            self.save()

    def _record(
        self,
        step: Step,
        collected: Collected,
        mini_batches: Sequence[Sequence[TrainSample]],
        update: UpdateStats,
        weights: WeightsInfo,
    ) -> StageChange | None:
        """Write the step's files, raise its alarms, and ask the curriculum. Raises AlarmError for a fatal alarm.

        mini_batches: what the update got. weights: what was published after it.
        """
        stats = rollout_stats(collected.sampled)
        figures = step_stats(
            stage=step.stage.name,
            stats=stats,
            sampled=collected.sampled,
            trained=collected.trained,
            samples=[sample for batch in mini_batches for sample in batch],
            update=update,
            repeats=self.alarms.draws.compare(collected.sampled),
            num_prompts=self.recipe.rollout.prompts_per_step,
            num_problems=self.stream.num_problems,
            weights=weights,
        )
        metrics = {**step_metrics(step, collected, stats, figures, update), **self.published}
        for group in collected.sampled:
            self.stream.note(group.group.problem.id, solved=group.solved)
        self.directory.write_rollouts(self.step, step.stage.name, collected.sampled, self.decode_prompt)
        self.directory.log_reward_failures(self.step, self._tell_failures(part_failures(collected.sampled)))
        self.directory.log_step(self.step, metrics)
        self.progress.end_step(self.step, stats, step.clock.seconds("sampler_busy") or step.clock.seconds("sample"))
        self._raise_alarms(figures)
        return self.curriculum.observe(observation(self.step, stats))

    def _tell_failures(self, failures: list[PartFailure]) -> list[PartFailure]:
        """Show the first failure of each kind of a part once in the life of this process."""
        for failure in failures:
            if (kind := (failure.part, failure.outcome)) not in self.told_failures:
                self.told_failures.add(kind)
                last = failure.trace.strip().rpartition("\n")[2]
                self.progress.message(
                    f"note: reward part {failure.part!r} failed ({failure.outcome.value}) on "
                    f"{counted(failure.count, 'completion')}, which have no reward: {last}. The traceback is in "
                    f"{self.directory.path / REWARD_FAILURES_FILE}"
                )
        return failures

    def _watch_memory(self) -> None:
        left = self.recipe.num_steps - self.step
        if text := self.memory.observe(resident_bytes(), available_bytes(), left):
            self.cluster.notices.append(text)

    def _tell_notices(self) -> None:
        """Record what happened to workers since the last step."""
        while self.cluster.notices:
            text = self.cluster.notices.popleft()
            self.directory.log_event(self.step, "notice", text, {})
            self.progress.message(f"note: {text}")

    def _raise_alarms(self, figures: StepStats) -> None:
        """Record all alarms, then stop the run if one is fatal."""
        alarms = self.alarms.observe(figures)
        for alarm in alarms:
            self.directory.log_event(self.step, "alarm", f"{alarm.name}: {alarm.reason}", {})
            self.progress.message(f"ALARM {alarm.name}: {alarm.reason}. {alarm.remedy}")
        fatal = next((alarm for alarm in alarms if alarm.fatal), None)
        if fatal is not None and self.recipe.alarms.stop:
            raise AlarmError(f"stopped at step {self.step}: {fatal.reason}. {fatal.remedy}")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Record how the loop ended: `finished`, or `stop` with the reason.

        A killed process leaves no such line.
        """
        try:
            yield
            self._wait_for_save()
        except (Exception, KeyboardInterrupt) as error:
            self._end_save(error)
            with suppress(OSError):  # a full disk may be what ended the run
                self._tell_notices()
                self.directory.log_event(self.step, "stop", str(error) or type(error).__name__, {})
            raise
        if self.step >= self.recipe.num_steps:
            self.directory.log_event(
                self.step, "finished", f"all {counted(self.recipe.num_steps, 'step')} are done", {}
            )
        else:
            self.directory.log_event(self.step, "stop", "stopped on request, after the step and its checkpoint", {})

    def _wait_for_save(self) -> None:
        if self.saves.pending is not None:
            self.progress.message(f"waiting until the checkpoint of step {self.saves.pending} is written")
        self.saves.wait()

    def _end_save(self, error: BaseException) -> None:
        """After an error: a checkpoint under way is written to its end, unless workers that write it are lost."""
        with suppress(RunError):  # the error that ended the run is the one to tell
            if isinstance(error, KeyboardInterrupt | StalledError | WorkerLost):
                self.saves.abandon()
            else:
                self._wait_for_save()

    def _begin_stage(self, change: StageChange) -> None:
        """Reset everything that the section of the new stage resets."""
        stage = self.curriculum.stage
        self.stage_ends.append(self.step)
        self.cluster.learner.begin_stage(reset_optimizer=stage.reset_optimizer, reset_reference=stage.reset_reference)
        start = self.stream.begin_stage(self.curriculum.stage_index, reshuffle=stage.reshuffle)
        figures = {**change.figures, "num_problems": start.num_problems, "num_dropped_solved": start.num_dropped}
        self.directory.log_event(self.step, "stage_change", change.reason, figures)
        self.progress.message(f"stage {change.from_stage} -> {change.to_stage}: {change.reason}")
        if stage.drop_solved:
            self.progress.message(
                f"{counted(start.num_dropped, 'solved problem')} left out, {start.num_problems} remain"
            )
        for source in start.kept:
            self.progress.message(
                f"note: solved problems of {source or self.recipe.data.source} stay in: without them too few are left"
            )

    def _evaluation_due(self) -> bool:
        every = self.recipe.evaluation.every_steps
        return bool(every) and self.step % every == 0

    def _checkpoint_due(self) -> bool:
        return self.stop.requested or self.step % self.recipe.checkpoint.every_steps == 0

    def evaluate(self, stage: StageSection) -> None:
        """Pass@1 on the validation sets, which share no problem with the training data."""
        if self.validation is None:
            return
        results = self.validation.evaluate(self.step, stage.name, self.weights.digest("float32"))
        for file in self.validation.files_of(self.step):
            self.directory.remember(file)
        self.directory.log_evaluation(self.step, evaluation_line(results, stage.name))
        if self.step == 0:
            for text in notes_on_base(results):
                self.progress.message(text)

    def save(self) -> None:
        """Commit a checkpoint, then drop the ones no longer needed."""
        if self.step == self.recipe.num_steps and self.step not in self.results:
            self.results.append(self.step)

        def write(directory: Path) -> Future[None] | None:
            _write_json(directory / RECIPE_FILE, self.recipe.model_dump(mode="json"))
            self.directory.write_records(directory)
            if not self.step:  # the base model, unchanged: its digest is in the state, its files need no copy
                _write_json(directory / BASE_MODEL_FILE, {"path": str(self.base_model), **self.inputs.as_json()})
                return None
            self.save_tokenizer(directory)
            if self.recipe.model.lora.rank:
                base = {"path": str(self.base_model.absolute()), "weights_sha256": self.inputs.weights}
                _write_json(directory / ADAPTER_BASE_FILE, base)
            if self.saves.in_background:
                return self.cluster.learner.begin_save(directory)
            self.cluster.learner.save(directory)
            return None

        self.directory.sync()
        protected = {self.first_step, *self.stage_ends, *self.results}
        then = partial(prune, self.saves.root, self.recipe.checkpoint.keep, protected)
        self.saves.save(self.step, self.state_dict(), write, then)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "first_step": self.first_step,
            "origin": self.origin,
            "stage_ends": self.stage_ends,
            "results": self.results,
            "curriculum": self.curriculum.state_dict(),
            "stream": self.stream.state_dict(),
            "alarms": self.alarms.state_dict(),
            "inputs": self.inputs.as_json(),
            "grader_version": self.grader_version,
            "recipe_digest": self.recipe_digest,
            "num_processes": self.cluster.num_processes,
            "num_updates": self.cluster.learner.num_updates,
        }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
