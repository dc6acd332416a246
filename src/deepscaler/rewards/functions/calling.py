"""Calls a reward function and checks what it returns. Runs in the function's own process; standard library only."""

from __future__ import annotations

import inspect
import math
import numbers
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deepscaler.own_code import trace_of
from deepscaler.rewards.functions.loading import BATCHED, LoadedFunction

LARGEST = 1e30  # of a value, so that sums of parts stay within 32-bit floats
MAX_METRICS = 16


@dataclass(frozen=True, slots=True)
class Returned:
    """What a call gave for one completion. outcome: of types.PartOutcome. metrics: named numbers beside the value."""

    outcome: str
    value: float | None = None
    detail: str = ""
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return asdict(self)


Reply = Callable[[int, Returned], None]  # number of the completion in the request, what its call gave
Item = Mapping[str, Any]  # keyword arguments of one completion


class Caller:
    """Calls one function on the completions of one request, and replies for each, in any order."""

    def __init__(self, function: LoadedFunction, arguments: Mapping[str, object], wall_s: float) -> None:
        self._function, self._arguments, self._wall_s = function, arguments, wall_s
        self._pid = os.getpid()

    def __call__(self, items: Sequence[Item], reply: Reply) -> None:
        try:
            self._call(items, reply)
        finally:
            self._leave_if_forked()

    def _leave_if_forked(self) -> None:
        """A function that forks comes back twice: only the first process may answer."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _call(self, items: Sequence[Item], reply: Reply) -> None:
        function = self._function
        if function.batched:
            start = time.perf_counter()
            for index, returned in enumerate(self._batch(items, start)):
                reply(index, returned)
        elif function.is_async:
            from deepscaler.rewards.functions import coroutines  # asyncio is most of the time that a process starts

            coroutines.run_all(self._awaited, items, reply)
        else:
            for index, item in enumerate(items):
                start = time.perf_counter()
                try:
                    returned = checked(function.call(**item, **self._arguments), start)
                except (Exception, SystemExit) as error:
                    returned = _raised(error, start)
                self._leave_if_forked()
                reply(index, returned)

    def _batch(self, items: Sequence[Item], start: float) -> list[Returned]:
        arguments = {name: [item.get(name) for item in items] for name in items[0]} if items else {}
        plural = {of: name for name, of in BATCHED.items() if name in self._function.wanted}
        arguments = {plural.get(name, name): values for name, values in arguments.items()}
        try:
            values = self._function.call(**arguments, **self._arguments)
            if inspect.isawaitable(values):
                from deepscaler.rewards.functions import coroutines

                values = coroutines.run_one(values, self._wall_s)
        except TimeoutError:
            return [_timed_out(self._wall_s, start)] * len(items)
        except (Exception, SystemExit) as error:
            return [_raised(error, start)] * len(items)
        self._leave_if_forked()
        found = _as_list(values)
        if found is None:
            detail = f"returned a {type(values).__name__}; a function of `completions` returns a list of numbers"
            return [Returned("wrong_type", detail=detail, seconds=time.perf_counter() - start)] * len(items)
        if len(found) != len(items):
            detail = f"returned values: {len(found)}, completions: {len(items)}"
            return [Returned("wrong_length", detail=detail, seconds=time.perf_counter() - start)] * len(items)
        each = (time.perf_counter() - start) / max(len(items), 1)
        return [checked(value, time.perf_counter() - each) for value in found]

    async def _awaited(self, item: Item) -> Returned:
        """What one call of a coroutine function gave, within the waiting time."""
        from deepscaler.rewards.functions import coroutines

        start = time.perf_counter()
        try:
            value = await coroutines.limited(self._function.call(**item, **self._arguments), self._wall_s)
            returned = checked(value, start)
        except TimeoutError:
            returned = _timed_out(self._wall_s, start)
        except (Exception, SystemExit) as error:
            returned = _raised(error, start)
        self._leave_if_forked()
        return returned


def checked(value: object, start: float) -> Returned:
    """A number, None, or a mapping with `reward` and further numbers. start: of the call, by `time.perf_counter`."""
    seconds = time.perf_counter() - start
    metrics: dict[str, float] = {}
    if isinstance(value, Mapping):
        if "reward" not in value:
            return Returned("wrong_type", detail="returned a mapping without `reward`", seconds=seconds)
        rest = {str(name): _number(number) for name, number in value.items() if name != "reward"}
        metrics = {n: v for n, v in list(rest.items())[:MAX_METRICS] if v is not None and math.isfinite(v)}
        value = value["reward"]
    if value is None:
        return Returned("no_signal", seconds=seconds, metrics=metrics)
    number = _number(value)
    if number is None:
        detail = f"returned {_short(value)}, a {type(value).__name__}; a reward is a number or None"
        return Returned("wrong_type", detail=detail, seconds=seconds)
    if not math.isfinite(number) or abs(number) > LARGEST:
        return Returned("not_finite", detail=f"returned {number}", seconds=seconds)
    return Returned("value", number, seconds=seconds, metrics=metrics)


def _number(value: object) -> float | None:
    """A number of Python or numpy, or a tensor with one element; None for anything else."""
    if isinstance(value, numbers.Real):
        return _float(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        item = value.item()  # type: ignore[attr-defined]
        return _float(item) if isinstance(item, numbers.Real) else None
    return None


def _float(value: numbers.Real) -> float:
    try:
        return float(value)
    except OverflowError:  # a huge integer
        return math.inf


def _as_list(values: object) -> list[object] | None:
    if isinstance(values, list | tuple):
        return list(values)
    if len(getattr(values, "shape", ())) == 1 and hasattr(values, "tolist"):
        return values.tolist()  # type: ignore[attr-defined]
    return None


def _raised(error: BaseException, start: float) -> Returned:
    return Returned("exception", detail=trace_of(error), seconds=time.perf_counter() - start)


def _timed_out(wall_s: float, start: float) -> Returned:
    return Returned("timeout", detail=f"no value within {wall_s:g} s", seconds=time.perf_counter() - start)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
