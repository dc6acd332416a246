"""Combinations of settings about workers that are refused, and the numbers of workers that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deepscaler.config.context import check_context_parallel
from deepscaler.config.derived import completions_per_update
from deepscaler.config.memory import ModelShape
from deepscaler.config.models import Recipe
from deepscaler.config.sections.rollout import ClusterSection

_OF_RAY = ("learner_ranks", "samplers", "learner_gpus", "rollout_gpus", "address")


def cluster_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    cluster = recipe.cluster
    given = [name for name in _OF_RAY if getattr(cluster, name) is not None]
    if cluster.kind != "ray":
        for name in given:
            yield (
                f"cluster.{name} = {getattr(cluster, name)!r} does nothing with cluster.kind = {cluster.kind!r}; set "
                "cluster.kind = 'ray', or remove it"
            )
        return
    for on_gpus, on_cpus in (("learner_gpus", "learner_ranks"), ("rollout_gpus", "samplers")):
        if on_gpus in given and on_cpus in given:
            yield (
                f"cluster.{on_gpus} and cluster.{on_cpus} both say how many there are; keep cluster.{on_gpus} where "
                f"each has a GPU, or cluster.{on_cpus} for one CPU core each"
            )
    yield from _ranks(recipe, num_learner_ranks(cluster))
    for here, other in (("learner_gpus", "rollout_gpus"), ("rollout_gpus", "learner_gpus")):
        if here in given and other not in given:
            yield (
                f"cluster.{here} without cluster.{other}: learner and samplers do not share GPUs under Ray, and one of "
                f"them would compute on CPU cores; set cluster.{other} as well"
            )


def context_parallel_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    ranks = recipe.training.context_parallel
    if ranks > 1 and recipe.cluster.kind == "local":
        yield (
            f"training.context_parallel = {ranks} with cluster.kind = 'local', where each process has whole sequences; "
            "set training.context_parallel = 1, or cluster.kind = 'torchrun' or 'ray' for learner ranks"
        )
    shape = ModelShape.of_recipe(recipe) if ranks > 1 else None
    if shape is not None:
        try:
            check_context_parallel(ranks, shape.num_attention_heads)
        except ValueError as error:
            yield str(error)


def _ranks(recipe: Recipe, count: int) -> Iterator[str]:
    key = "cluster.learner_gpus" if recipe.cluster.learner_gpus else "cluster.learner_ranks"
    together, completions = recipe.training.context_parallel, completions_per_update(recipe)
    if count % together:
        yield (
            f"{key} = {count} is no multiple of training.context_parallel = {together}, the ranks that share a "
            "micro-batch; change one of them"
        )
    elif count > completions * together:
        yield (
            f"{key} = {count}, but an update has {completions} completions, so some ranks would never have one; lower "
            "it, or raise optimizer.mini_batch_prompts or rollout.group_size"
        )


def num_learner_ranks(cluster: ClusterSection) -> int:
    """Learner ranks under Ray."""
    return cluster.learner_gpus or cluster.learner_ranks or 1


def num_samplers(cluster: ClusterSection) -> int:
    """Engines under Ray."""
    return cluster.rollout_gpus or cluster.samplers or 1


def max_restarts(cluster: ClusterSection) -> int:
    """How often a run goes on by itself after a learner rank was lost."""
    return cluster.max_restarts if cluster.kind == "ray" else 0
