"""Every setting declares what it shapes, and what derives from the declarations stays what files on disk recorded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from deepscaler.config import load_recipe, recipe_hash
from deepscaler.config.evaluation import EngineSection, EvalRecipe, load_evaluation, settings_of
from deepscaler.config.models import Recipe
from deepscaler.config.schema import all_settings
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.config.setting import Compared, Section, Shapes, compared_of, setting, shapes_of, values_shaping
from deepscaler.engines.registry import engine_fingerprint
from deepscaler.json_text import canonical_digest, parse_json
from deepscaler.loop.evaluate import grader_settings, recorded_grader
from deepscaler.toy.base_model import base_directory

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("recipe", [Recipe, EvalRecipe])
def test_every_setting_declares_what_it_shapes(recipe: type[Section]) -> None:
    for key, field in all_settings(recipe):
        assert shapes_of(field) in get_args(Shapes), key
        assert compared_of(field) in get_args(Compared), key


def test_a_setting_that_does_not_declare_it_is_refused() -> None:
    make: Any = setting
    with pytest.raises(TypeError, match="shapes"):
        make(1, doc="no word about what it shapes")


class _Inner(Section):
    width: int = setting(3, shapes="base", doc="w")
    place: str = setting("x", shapes="base", compared="content", doc="p")
    label: str = setting("x", shapes="nothing", doc="l")


class _Outer(Section):
    seed: int = setting(1, shapes="base", doc="s")
    inner: _Inner = _Inner()
    several: tuple[_Inner, ...] = setting((), shapes="samples", doc="e")


def test_the_values_of_nested_and_repeated_sections_are_found() -> None:
    assert values_shaping(_Outer(), "base") == {"seed": 1, "inner": {"width": 3}}
    repeated = _Outer(several=(_Inner(width=4), _Inner()))
    assert values_shaping(repeated, "base")["several"] == [{"width": 4}, {"width": 3}]
    assert values_shaping(_Outer(), "verdict") == {}


STOPS = ("rollout.stop=['a','b']", "rollout.stop_token_ids=[3]")


@pytest.mark.parametrize(
    ("name", "overrides", "digest"),
    [
        ("quickstart", (), "7d8d6f6b3badcbad4f5e998e6ec9edb6bff80941d8037f42a344cd6555ec3579"),
        ("quickstart", STOPS, "ed43dd89e2829453bccf90c0ea61836f034630194a037241b590482518936854"),
        ("deepscaler-1.5b", (), "8a40af7b5de455f359c0f03126256f49907605c24582e31fee4db1566fb3aada"),
        ("deepscaler-1.5b", STOPS, "1065cd2c21abf5a7892ffc75fa5be7e98b5fe9eee658b1568ebeed90d87259c4"),
    ],
)
def test_runs_started_earlier_are_recognised(name: str, overrides: tuple[str, ...], digest: str) -> None:
    """A new setting or another default of these recipes needs a new value here, and a line in CHANGELOG.md."""
    assert recipe_hash(load_recipe(RECIPES / f"{name}.toml", overrides)) == digest


@pytest.mark.parametrize(("seed", "name"), [(1, "9b6246d7a01d"), (7, "ab6fe462f9a5")])
def test_base_models_made_earlier_are_found(seed: int, name: str) -> None:
    recipe = load_recipe(RECIPES / "quickstart.toml", [f"seed={seed}"])
    assert recipe.sft is not None
    assert base_directory(recipe, recipe.sft) == Path("runs/bases") / name


def test_evaluations_made_earlier_go_on() -> None:
    changed = ["sampling.stop=['x']", "sampling.stop_token_ids=[3]", "suite.limit=4"]
    given = settings_of(load_evaluation(RECIPES / "eval-competition.toml", changed))
    assert canonical_digest(given) == "eac34127971b164feeba05c968c66faf5ac67fb45a0b17fb4bdb8158feb7eacf"
    default = settings_of(EvalRecipe())
    assert canonical_digest(default) == "061f12b506020761819276b19f8bf2554dc58d592bd61708b42e6ab19575e989"
    limits = {name: value for name, value in grader_settings(GraderSection()).items() if name != "version"}
    assert limits == {"profile": "deepscaler", "cpu_s": 1.0, "wall_s": 10.0, "memory_mib": 1024}


def test_no_two_sections_of_an_evaluation_share_the_name_of_a_recorded_setting() -> None:
    tables = [value for value in values_shaping(EvalRecipe(), "samples").values() if isinstance(value, dict)]
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))


def test_the_fingerprint_of_an_engine_has_every_setting_that_shapes_samples() -> None:
    shaping = {
        key
        for key, field in all_settings(EngineSection)
        if shapes_of(field) == "samples" and compared_of(field) != "rounding"
    }
    files: Any = SimpleNamespace(dtype="float32", device=SimpleNamespace(type="cpu"), stopping_fingerprint=dict)
    assert shaping <= engine_fingerprint("torch", files).keys()


def test_regrading_keeps_what_shaped_the_verdicts() -> None:
    made = GraderSection(profile="string", cpu_s=2.0, workers=3)
    assert recorded_grader({"grader": grader_settings(made)}, 1) == made.model_copy(update={"workers": 1})
    assert recorded_grader({}, 5) == GraderSection(workers=5)
    numbers = GraderSection(answer=("after_####", "last_number"))
    settings = parse_json(json.dumps({"grader": grader_settings(numbers)}))
    assert isinstance(settings, dict) and recorded_grader(settings, 1) == numbers
