"""Going on: with a run in its own directory, exactly, or from its checkpoint in a new one, with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.config import Recipe, recipe_hash
from deepscaler.config.resume import changed_rounding
from deepscaler.data.stream import ProblemStream
from deepscaler.loop.inputs import Inputs, in_words
from deepscaler.loop.resume_check import Origin, refuse_other_settings, ways_on
from deepscaler.loop.run import Run
from deepscaler.observability.run_directory import RECIPE_FILE, read_json
from deepscaler.protocols import Learner
from deepscaler.training.checkpoint import Checkpoint, CheckpointError, newest_checkpoint, remove_leftovers


def check_continues(
    recipe: Recipe, inputs: Inputs, stream: ProblemStream, found: Checkpoint, origin: Origin | None, path: Path
) -> None:
    """Whether everything that shapes a step is what it was when the checkpoint of this directory was written.

    origin: of the command; a directory that has steps takes only the one it began with. Raises ValueError.
    """
    state = found.state
    refuse_other_settings(read_json(found.path / RECIPE_FILE) or {}, recipe, path)
    if state["recipe_digest"] != recipe_hash(recipe):
        raise ValueError(
            f"{found.path} was made with other settings, which its {RECIPE_FILE} does not name; {ways_on(path)}"
        )
    differing = inputs.differing(state["inputs"])
    if differing:
        raise ValueError(
            f"since {found.path} was written, {in_words(differing)} changed; put back what was there, or "
            f"{ways_on(path)}"
        )
    stream.check_same(state["stream"])
    began = state["origin"]
    if origin is not None and (began is None or origin.step not in (None, began["step"])):
        at = "from the base model" if began is None else f"from step {began['step']} of {began['run']}"
        raise ValueError(
            f"{path} has steps of its own already, begun {at}; leave out --from to go on with them, or give another "
            "--run-dir"
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with: its own newest checkpoint, another run's, or neither, which is the base model."""

    own: Checkpoint | None = None
    other: Checkpoint | None = None
    origin: Origin | None = None

    @property
    def is_new(self) -> bool:
        return self.own is None

    def begin(self, run: Run) -> None:
        """Bring the run there; its sampler has the weights afterwards."""
        if self.own is not None:
            restore(run, self.own)
        elif self.other is not None and self.origin is not None:
            start_from(run, self.origin, self.other)
        else:
            run.publish()


def find_start(recipe: Recipe, inputs: Inputs, stream: ProblemStream, path: Path, origin: Origin | None) -> Start:
    """Raises ValueError when the checkpoint to begin with is not one of this recipe and these inputs.

    The caller holds the directory's lock.
    """
    checkpoints = path / "checkpoints"
    newest = newest_checkpoint(checkpoints)
    if newest is None:
        other = origin.read() if origin is not None else None
        if other is not None:
            check_fits(recipe, inputs, other)
        remove_leftovers(checkpoints)
        return Start(other=other, origin=origin)
    check_continues(recipe, inputs, stream, newest, origin, path)
    remove_leftovers(checkpoints)
    return Start(own=newest)


def restore(run: Run, found: Checkpoint) -> None:
    """Go on with a run in its own directory, after `check_continues`; reports what changed."""
    _load(run, found.path, found.state)
    _say_rounding(run, read_json(found.path / RECIPE_FILE) or {}, found.state["num_processes"])
    damaged = [*found.passed_over, *run.directory.check_records(found.path)]
    for text in damaged:
        run.progress.message(f"warning: damaged since it was written: {text}")
    remarks = f"; damaged: {', '.join(damaged)}" if damaged else ""
    if change := _grader_change(run, found.state):
        run.progress.message(f"note: {change}")
        remarks += f"; {change}"
    run.directory.log_event(run.step, "resume", f"continued after step {run.step}{remarks}", {})
    run.progress.message(f"continuing after step {run.step} from {found.path}")


def _load(run: Run, checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Bring the run to what `Run.state_dict` saved; the engine gets the weights by the ordinary, checked publish."""
    if state["step"]:
        run.cluster.learner.load(checkpoint)
    run.step, run.first_step = state["step"], state["first_step"]
    _check_counters(checkpoint, run.cluster.learner, state)
    run.origin = state["origin"]
    run.stage_ends, run.results = list(state["stage_ends"]), list(state["results"])
    run.curriculum.load_state_dict(state["curriculum"])
    run.stream.load_state_dict(state["stream"])
    run.alarms.load_state_dict(state["alarms"])
    run.publish()


def _check_counters(checkpoint: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """What the learner goes on with must be what the run had when it was saved. Raises CheckpointError."""
    counters = {"version": (learner.version, state["step"])}  # every step makes one version
    if "num_updates" in state:
        counters["num_updates"] = (learner.num_updates, state["num_updates"])
    for name, (loaded, saved) in counters.items():
        if loaded != saved:
            raise CheckpointError(
                f"{checkpoint}: the learner was loaded with {name} = {loaded}, the run was saved with {saved}; "
                "optimizer and learning rate would go on from another point. Move this checkpoint away to go on from "
                "an earlier one"
            )


def check_fits(recipe: Recipe, inputs: Inputs, found: Checkpoint) -> None:
    """Whether a new run of this recipe can begin with another run's checkpoint. Raises ValueError."""
    step = found.state["step"]
    if recipe.num_steps <= step:
        raise ValueError(
            f"num_steps = {recipe.num_steps} is not beyond step {step} of {found.path}, from which the run would go "
            "on; steps are counted on from there, so raise num_steps, or name an earlier one: --from RUN@STEP"
        )
    differing = inputs.differing(found.state["inputs"])
    needed = [name for name in differing if name == "config" or (name == "weights" and not step)]
    if needed:
        raise ValueError(
            f"{found.path} does not fit the recipe's model: {in_words(needed)} differ. Name the base model that its "
            "run was started with"
        )
    _stage_of(recipe, found)


def start_from(run: Run, origin: Origin, found: Checkpoint) -> None:
    """Begin a new directory with another run's checkpoint, after `check_fits`.

    It brings weights, reference, step, stage and data position; what the recipe says from here on may differ.
    """
    state = found.state
    for text in found.passed_over:
        run.progress.message(f"warning: passed over, damaged: {text}")
    others = [name for name in run.inputs.differing(state["inputs"]) if name != "weights"]  # the checkpoint's count
    if others:
        run.progress.message(f"note: {in_words(others)}: not what {found.path} was trained with")
    stage = _stage_of(run.recipe, found)
    run.curriculum.load_state_dict({**state["curriculum"], "stage_index": stage})
    _continue_stream(run, state["stream"])
    if state["step"]:
        run.cluster.learner.load(found.path, optimizer=origin.keep_optimizer)
    run.step = run.first_step = state["step"]
    run.origin = {"run": str(origin.run), "step": state["step"], "keep_optimizer": origin.keep_optimizer}
    weights = run.publish()
    optimizer = "its optimizer kept" if origin.keep_optimizer else "a new optimizer"
    text = f"went on from step {run.step} of {origin.run} (weights {weights.digest[:12]}), {optimizer}"
    if change := _grader_change(run, state):
        text += f"; {change}"
    run.directory.log_event(run.step, "resume", text, {})
    run.progress.message(text)


def _stage_of(recipe: Recipe, found: Checkpoint) -> int:
    """The recipe's stage that has the name of the one the checkpoint was in. Raises ValueError."""
    before = read_json(found.path / RECIPE_FILE) or {}
    index = found.state["curriculum"]["stage_index"]
    name = before["stages"][index]["name"]
    names = [stage.name for stage in recipe.stages]
    if name not in names:
        raise ValueError(
            f"{found.path} was in stage {name!r}, which the recipe does not have ({', '.join(names)}); give one of "
            "its stages that name"
        )
    return index if index < len(names) and names[index] == name else names.index(name)


def _continue_stream(run: Run, state: dict[str, Any]) -> None:
    stage = run.curriculum.stage_index
    try:
        run.stream.check_problems(state)
    except ValueError:
        run.progress.message("note: other training problems than in that run, so their order starts again")
        run.stream.begin_stage(stage, reshuffle=True)
        return
    run.stream.continue_from(state, stage)


def _grader_change(run: Run, state: Mapping[str, Any]) -> str | None:
    """In words; None when the checkpoint's verdicts were given by the same version, or do not say by which."""
    before, now = state.get("grader_version"), run.grader_version
    if before in (None, now):
        return None
    return (
        f"the grader was version {before} and is version {now} now, so the same answer may earn another reward from "
        "here on, and evaluations inside training before and after are not of one grader"
    )


def _say_rounding(run: Run, stored: Mapping[str, Any], num_processes: int) -> None:
    changed = changed_rounding(stored, run.recipe.model_dump(mode="json"))
    changes = [f"{one.key} ({one.before} -> {one.after})" for one in changed if one.key != "training.processes"]
    if num_processes != run.cluster.num_processes:
        changes.append(f"processes ({num_processes} -> {run.cluster.num_processes}; training.processes)")
    if changes:
        run.progress.message(
            f"note: {', '.join(changes)}: sums are rounded in another order, so the run goes on equal within rounding, "
            "not bit by bit"
        )
