"""Functions of one's own in a recipe: `FILE.py:NAME`, relative to the recipe's file, or `MODULE:NAME`."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

BUILTIN = "deepscaler.rewards.builtin"
# Reward functions that come with the package: one module each, whose name is the function's.
BUILTIN_REWARDS: tuple[str, ...] = tuple(
    sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1] / "rewards" / "builtin")]))
)
_OF_FILE = re.compile(r"(?P<file>[^\0]+\.py):(?P<name>[A-Za-z_]\w*)")
_OF_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def names_own_code(text: str) -> bool:
    """Whether a text has the form of an import path, and not of a name that this package knows."""
    return bool(_OF_FILE.fullmatch(text) or _OF_MODULE.fullmatch(text))


def file_of(path: str) -> Path | None:
    """The file of `FILE.py:NAME`; None for a module."""
    found = _OF_FILE.fullmatch(path)
    return Path(found["file"]) if found else None


def own_or(names: Collection[str]) -> AfterValidator:
    """Accepts one of these names, or an import path."""

    def check(given: str) -> str:
        if given in names or names_own_code(given):
            return given
        near = get_close_matches(given, names, n=1, cutoff=0.6)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        known = ", ".join(f"'{name}'" for name in names)
        expected = f"{known}, or a function of yours as FILE.py:NAME or MODULE:NAME"
        raise PydanticCustomError(
            "unknown_function", "Input should be one of {expected}", {"expected": expected, "hint": hint}
        )

    return AfterValidator(check)


def located(table: Mapping[str, object], folder: Path) -> dict[str, object]:
    """A recipe's table in which the files of `FILE.py:NAME` are those of the recipe's folder, where they are there.

    Only settings that hold a function: reward.function, reward.parts[].function, algorithm.loss, algorithm.advantage.
    """
    result: dict[str, Any] = dict(table)
    for section, names in (("reward", ("function",)), ("algorithm", ("loss", "advantage"))):
        if isinstance(given := table.get(section), Mapping):
            result[section] = _located(given, names, folder)
    if isinstance(reward := result.get("reward"), Mapping) and isinstance(parts := reward.get("parts"), list):
        found = [_located(part, ("function",), folder) if isinstance(part, Mapping) else part for part in parts]
        result["reward"] = {**reward, "parts": found}
    return result


def _located(table: Mapping[str, object], names: Collection[str], folder: Path) -> dict[str, object]:
    changed = {}
    for name in names:
        given = table.get(name)
        file = file_of(given) if isinstance(given, str) else None
        if file is not None and not file.is_absolute() and (folder / file).is_file():
            place = (folder / file).absolute()  # workers on a cluster may run in another directory
            changed[name] = f"{place}:{str(given).rpartition(':')[2]}"
    return {**table, **changed}


FunctionPath = Annotated[str, own_or(BUILTIN_REWARDS)]
