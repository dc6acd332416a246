"""Settings of [cluster] that contradict each other are refused before anything is started."""

from __future__ import annotations

import importlib.util

import pytest

from deepscaler.config import load_recipe
from deepscaler.config.cluster_checks import max_restarts, num_learner_ranks, num_samplers
from deepscaler.config.load import RecipeError
from deepscaler.config.parts import require_cluster


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cluster.samplers=2"], "cluster.samplers = 2 does nothing with cluster.kind = 'local'"),
        (["cluster.address=h:1"], "cluster.address = 'h:1' does nothing with cluster.kind = 'local'"),
        (["cluster.kind=ray", "cluster.learner_gpus=1"], "cluster.learner_gpus without cluster.rollout_gpus"),
        (
            ["cluster.kind=ray", "cluster.learner_gpus=1", "cluster.rollout_gpus=1", "cluster.samplers=1"],
            "cluster.rollout_gpus and cluster.samplers both say",
        ),
        (
            ["cluster.kind=ray", "cluster.learner_ranks=3", "training.context_parallel=2"],
            "cluster.learner_ranks = 3 is no multiple of training.context_parallel = 2",
        ),
        (
            ["cluster.kind=ray", "cluster.learner_ranks=5", "rollout.group_size=2", "optimizer.mini_batch_prompts=2"],
            "cluster.learner_ranks = 5, but an update has 4 completions",
        ),
    ],
)
def test_a_contradiction_names_the_settings(overrides: list[str], expected: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("quickstart", overrides)
    assert expected in str(refused.value)


def test_workers_are_counted_by_gpus_or_by_cores() -> None:
    one = load_recipe("quickstart", ["cluster.kind=ray"]).cluster
    assert (num_learner_ranks(one), num_samplers(one), max_restarts(one)) == (1, 1, 3)
    cores = load_recipe("quickstart", ["cluster.kind=ray", "cluster.learner_ranks=2", "cluster.samplers=3"]).cluster
    assert (num_learner_ranks(cores), num_samplers(cores)) == (2, 3)
    gpus = load_recipe("quickstart", ["cluster.kind=ray", "cluster.learner_gpus=4", "cluster.rollout_gpus=5"]).cluster
    assert (num_learner_ranks(gpus), num_samplers(gpus)) == (4, 5)
    assert max_restarts(load_recipe("quickstart", []).cluster) == 0


def test_ray_is_refused_at_once_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Ray is not installed .*`pip install 'deepscaler\[cluster\]'"):
        require_cluster("ray")
    require_cluster("local")
