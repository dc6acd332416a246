"""Imports a reward function from a file or a module and reads its signature. Runs in the function's own process.

Loads nothing but the standard library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepscaler.own_code import LoadError, find, import_place, sources_of

# What the program itself says about a completion; the row's other columns come beside, under their own names.
OFFERED = (
    "answer",
    "completion",
    "correct",
    "difficulty",
    "num_tokens",
    "outcome",
    "problem_id",
    "prompt",
    "references",
    "response",
    "source",
    "thinking",
    "truncated",
)
BUILTIN = "deepscaler.rewards.builtin."
BATCHED = {"completions": "completion", "prompts": "prompt", "responses": "response"}


@dataclass(frozen=True, slots=True)
class LoadedFunction:
    """call: the function. batched: it takes `completions`, a list, and returns as many values. is_async: a coroutine.

    wanted: parameters to be filled by what the program offers and by columns, True where the call fails without.
    takes_any: it has `**kwargs`, so every column is passed. sources: file -> SHA-256 (hex).
    """

    call: Callable[..., Any]
    batched: bool
    is_async: bool
    wanted: Mapping[str, bool]
    takes_any: bool
    sources: Mapping[str, str]


def load_function(path: str, arguments: Mapping[str, object]) -> LoadedFunction:
    """path: `FILE.py:NAME` or `MODULE:NAME`. arguments: given with every call. Raises LoadError."""
    place, _, name = path.rpartition(":")
    module = import_place(place)
    function = find(module, place, name)
    if place.startswith(BUILTIN):
        try:
            module.check(**arguments)
        except (TypeError, ValueError, AttributeError) as error:
            raise LoadError(f"arguments: {error}") from error
    return _with_signature(function, arguments, sources_of(module, place))


def _with_signature(
    function: Callable[..., Any], arguments: Mapping[str, object], sources: Mapping[str, str]
) -> LoadedFunction:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise LoadError(f"its signature cannot be read ({error}); wrap it in a function of Python") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    by_place = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY]
    if by_place:
        raise LoadError(f"it takes {', '.join(by_place)} by position only; arguments are given by keyword")
    if unknown := [n for n in arguments if n not in named and not takes_any]:
        raise LoadError(f"arguments names {', '.join(unknown)}, which it does not take; it takes {', '.join(named)}")
    if twice := [n for n in arguments if n in OFFERED or n in BATCHED]:
        raise LoadError(f"arguments names {', '.join(twice)}, which is filled by the program; rename it")
    if not takes_any and not named:
        raise LoadError("it takes no arguments; it needs at least `completion`, or `completions` for a list of them")
    wanted = {n: p.default is p.empty for n, p in named.items() if n not in arguments}
    call: Any = function if inspect.isroutine(function) else type(function).__call__
    is_async = inspect.iscoroutinefunction(call)
    return LoadedFunction(function, "completions" in named, is_async, wanted, takes_any, sources)
