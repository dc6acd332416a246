"""The training loop."""

from __future__ import annotations

from deepscaler.loop.run import Run


def train(run: Run) -> int:
    """Train until recipe.num_steps or a stop request; returns the last completed step.

    Everything a step changes is in the checkpoint, so a run killed anywhere in here continues exactly.
    """
    with run.ending():
        run.begin()
        while not run.finished:
            _step(run)
    return run.step


def _step(run: Run) -> None:
    learner, sampler = run.cluster.learner, run.cluster.sampler
    step = run.begin_step()
    collected = run.experience.collect(step)
    mini_batches = run.make_samples(collected.trained, step)
    with step.clock.phase("update"):
        sampler.release_memory()
        stats = learner.update(mini_batches)
    with step.clock.phase("publish"):
        weights = run.publish()
    run.end_step(step, collected, mini_batches, stats, weights)
