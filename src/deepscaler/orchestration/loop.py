"""The training loop. Whoever reads this knows what a step is."""

from __future__ import annotations

from deepscaler.algorithms.batch import make_samples
from deepscaler.orchestration.collect import collect
from deepscaler.orchestration.run import Run


def train(run: Run) -> int:
    """Train until recipe.num_steps or a stop request; returns the last completed step.

    Everything a step changes is in the checkpoint, so a run killed anywhere in here continues exactly.
    """
    with run.ending():
        if run.step == run.first_step:
            run.evaluate(run.curriculum.stage)
            run.save()
        _train(run)
    return run.step


def _train(run: Run) -> None:
    recipe = run.recipe
    while run.step < recipe.num_steps and not run.stop.requested:
        step, stage = run.step + 1, run.curriculum.stage
        clock = run.start_step(step, stage)
        collected = collect(run, stage, step, clock)
        mini_batches = make_samples(
            collected.trained,
            recipe.algorithm,
            max_completion_tokens=stage.max_completion_tokens,
            num_updates=run.num_updates,
        )
        with clock.phase("update"):
            stats = run.learner.update(mini_batches)
        with clock.phase("publish"):
            weights = run.fleet.publish_weights(run.learner)
        run.step = step
        change = run.record(collected, mini_batches, stats, weights, clock)

        finished = step == recipe.num_steps
        if finished or change is not None or run.evaluation_due():
            run.evaluate(stage)
        if change is not None:
            run.begin_stage(change)
        if finished or change is not None or run.checkpoint_due():
            run.save()
