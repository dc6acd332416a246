"""Rules on [reward] and on functions of one's own; `checks.py` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deepscaler.config.import_paths import file_of
from deepscaler.config.models import Recipe

JUDGE_TIMEOUT_S = 30.0  # the default of rewards/builtin/judge.py


def reward_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    section = recipe.reward
    if section.function is not None and section.parts:
        yield "reward.function and reward.parts both say what a completion earns; make the function one of the parts"
    if section.solved_threshold is not None and not section.all_parts:
        yield (
            f"reward.solved_threshold = {section.solved_threshold:g} without reward.function or reward.parts: the "
            "grader's verdict is the reward then, and decides; remove the threshold, or name parts"
        )
    names: dict[str, int] = {}
    for index, part in enumerate(section.parts):
        key = f"reward.parts.{index}"
        if (part.function is None) == (part.profile is None):
            yield f"{key} ({part.name}) needs either {key}.function or {key}.profile, one of the two"
        if part.profile is not None and part.arguments:
            yield f"{key}.arguments does nothing with {key}.profile, which is no function; remove it"
        limit = part.arguments.get("timeout_s", JUDGE_TIMEOUT_S)
        if part.function == "judge" and isinstance(limit, int | float) and part.wall_s <= limit:
            yield (
                f"{key}.wall_s = {part.wall_s:g} ends the judge before an attempt of timeout_s = {limit} may; set "
                f"{key}.wall_s above max_attempts times that, for example 120"
            )
        if part.name in names:
            yield (
                f"reward.parts.{names[part.name]}.name and {key}.name are both {part.name!r}; metrics tell parts apart "
                "by name, so rename one"
            )
        names.setdefault(part.name, index)
    if section.parts and all(part.weight == 0 for part in section.parts):
        yield "reward.parts.*.weight are all 0, so every reward would be 0; give one part a weight"


def own_code_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    """Files of functions that do not exist."""
    given = {f"reward.parts.{i}.function": part.function for i, part in enumerate(recipe.reward.parts)}
    given |= {
        "reward.function": recipe.reward.function,
        "algorithm.loss": recipe.algorithm.loss,
        "algorithm.advantage": recipe.algorithm.advantage,
    }
    for key, path in given.items():
        file = file_of(path) if path else None
        if file is not None and not file.is_file():
            yield (
                f"{key} = {path!r}: there is no file {file}; a relative one is looked for in the recipe's folder, then "
                "in the working directory"
            )
