"""Parts by name: settings list them without loading them, refuse unknown ones, and each listed one can be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from deepscaler.cluster.registry import load_cluster
from deepscaler.config import load_recipe
from deepscaler.config.evaluation import load_evaluation, rollout_engine
from deepscaler.config.parts import CLUSTERS, ENGINES, REWARDS, EngineName, load
from deepscaler.config.schema import RecipeError
from deepscaler.engines.registry import Engine, load_engine


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_that_a_recipe_can_name_is_one(name):
    assert isinstance(load_engine(name), Engine)


@pytest.mark.parametrize("kind", CLUSTERS)
def test_every_cluster_that_a_recipe_can_name_can_be_opened(kind):
    assert callable(load_cluster(kind))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "rollout.engine=vlm",
            "rollout.engine: expected one of 'torch' or 'vllm' or 'vllm_server', given \"vlm\"; did you mean \"vllm\"?",
        ),
        ("rollout.engine=3", "rollout.engine: expected text in quotes, given 3"),
        ("cluster.kind=slurm", "cluster.kind: expected one of 'local' or 'torchrun' or 'ray', given \"slurm\""),
        ("grader.profile=strings", "grader.profile: expected one of 'deepscaler' or 'string', given \"strings\""),
    ],
)
def test_an_unknown_part_is_refused_with_the_list_and_the_nearest_name(override, expected):
    with pytest.raises(RecipeError) as refusal:
        load_recipe("quickstart", [override])
    assert expected in str(refusal.value)


def test_an_evaluation_names_the_same_engines_and_rewards():
    for engine in ENGINES:
        assert load_evaluation(None, [f"engine.kind={engine}"]).engine.kind == engine
    for reward in REWARDS:
        assert load_evaluation(None, [f"grader.profile={reward}"]).grader.profile == reward


def test_settings_that_name_parts_load_none_of_them():
    code = (
        "import sys; from deepscaler.config import load_recipe; load_recipe('quickstart');"
        "print([m for m in sys.modules if m == 'torch' or m.startswith(('deepscaler.engines', 'deepscaler.rewards'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_a_part_that_was_added_is_known_to_settings(monkeypatch):
    """One line: nothing else lists the names."""
    monkeypatch.setitem(ENGINES, "other", ENGINES["torch"])  # type: ignore[arg-type]

    class Settings(BaseModel):
        engine: EngineName

    assert Settings(engine="other").engine == "other"


@pytest.mark.parametrize("path", ["os:system", "deepscaler_evil.parts:ENGINE", "os.path:join"])
def test_no_other_package_is_imported_by_name(path: str) -> None:
    with pytest.raises(ValueError, match="no import path of this package"):
        load(path)


@pytest.mark.parametrize(("kind", "way"), [("local", "auto"), ("torchrun", "files"), ("ray", "files")])
def test_servers_of_a_learner_with_ranks_get_files(kind: str, way: str) -> None:
    servers = ["rollout.engine=vllm_server", "rollout.vllm_python=p", "model.float32_head=false"]
    recipe = load_recipe(Path("deepscaler-1.5b"), [*servers, f"cluster.kind={kind}"])
    assert rollout_engine(recipe).vllm_weight_transfer == way
