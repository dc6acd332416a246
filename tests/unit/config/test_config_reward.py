"""[reward], functions by import path, and grader.answer in recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config import load_recipe, recipe_hash
from deepscaler.config.advice import warnings_for
from deepscaler.config.load import resolve
from deepscaler.config.schema import RecipeError
from sound_recipe import SOUND

PART = '[[reward.parts]]\nname = "{name}"\n{rest}\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text("def f(completion): return 1\n")
    path = tmp_path / "sound.toml"
    path.write_text(SOUND)
    return path


def with_text(recipe: Path, text: str) -> Path:
    recipe.write_text(SOUND + text)
    return recipe


def test_a_function_is_one_part_named_after_it(recipe: Path) -> None:
    loaded = load_recipe(with_text(recipe, '[reward]\nfunction = "mine.py:f"\n'))
    (part,) = loaded.reward.all_parts
    assert (part.name, part.weight) == ("f", 1.0)
    assert part.function == f"{recipe.parent / 'mine.py'}:f"


def test_files_are_those_beside_the_recipe_that_names_them(recipe: Path) -> None:
    text = PART.format(name="own", rest='function = "mine.py:f"') + '[algorithm]\nloss = "mine.py:loss"\n'
    folder = recipe.parent / "later"
    folder.mkdir()
    (folder / "later.toml").write_text('extends = "../sound.toml"\n')
    loaded = load_recipe(with_text(recipe, text) and folder / "later.toml")
    places = (loaded.reward.parts[0].function or "", loaded.algorithm.loss)
    assert [Path(p.rpartition(":")[0]).resolve() for p in places] == [recipe.parent.resolve() / "mine.py"] * 2


def test_where_the_file_is_does_not_matter_and_weights_do(recipe: Path, tmp_path: Path) -> None:
    text = PART.format(name="own", rest='function = "{}:f"\nweight = {}')
    other = tmp_path / "elsewhere.py"
    other.write_text("")
    hashes = [
        recipe_hash(load_recipe(with_text(recipe, text.format(*given))))
        for given in (("mine.py", 1.0), (other, 1.0), ("mine.py", 0.5))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PART.format(name="x", rest=""), "needs either reward.parts.0.function or reward.parts.0.profile"),
        (PART.format(name="x", rest='function = "length"\nprofile = "string"'), "one of the two"),
        (PART.format(name="x", rest='profile = "string"\narguments = {a = 1}'), "which is no function"),
        (PART.format(name="x", rest='profile = "string"') * 2, "metrics tell parts apart by name"),
        (PART.format(name="x", rest='profile = "string"\nweight = 0'), "are all 0"),
        (PART.format(name="x y", rest='profile = "string"'), "at most 40 letters, digits, - and _"),
        (PART.format(name="x", rest='function = "lenght"'), 'did you mean "length"?'),
        (PART.format(name="x", rest='function = "none.py:f"'), "there is no file none.py"),
        (PART.format(name="x", rest='function = "judge"'), "ends the judge before an attempt"),
        ("[reward]\nsolved_threshold = 0.5\n", "the grader's verdict is the reward"),
        ('[reward]\nfunction = "mine.py:f"\n' + PART.format(name="x", rest='profile = "string"'), "one of the parts"),
        ('[algorithm]\nloss = "ppo"\n', "expected one of 'clipped_surrogate'"),
        ('[algorithm]\nadvantage = "none.py:f"\n', "algorithm.advantage = 'none.py:f': there is no file"),
        ('[grader]\nanswer = "last number"\n', 'did you mean "last_number"?'),
        ('[grader]\nanswer = ["boxed", "boxed"]\n', "at least one rule, each once"),
        ("[grader]\nanswer = []\n", "at least one rule, each once"),
    ],
)
def test_what_cannot_be_meant_is_refused(recipe: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(with_text(recipe, text))
    assert words in str(caught.value)


def test_answer_rules_are_one_or_several_and_the_default_changes_no_hash(recipe: Path) -> None:
    before = load_recipe(recipe)
    assert before.grader.answer_rules == ("boxed",)
    assert recipe_hash(load_recipe(recipe, ["grader.answer=boxed"])) == recipe_hash(before)
    several = load_recipe(recipe, ["grader.answer=['after_####','last_number']"])
    assert several.grader.answer_rules == ("after_####", "last_number")
    assert recipe_hash(several) != recipe_hash(before)


def test_an_instruction_to_box_what_is_read_elsewhere_is_a_warning(recipe: Path) -> None:
    def warned(*overrides: str) -> str:
        resolved = resolve(recipe, overrides)
        return "\n".join(warnings_for(resolved.recipe, resolved.origins))

    assert "data.instruction asks for \\boxed{}" in warned("grader.answer=last_number")
    assert "data.instruction" not in warned("grader.answer=['last_number','boxed']")
    assert "data.instruction" not in warned("grader.answer=last_number", "data.instruction=End with the number.")
