"""A budget for one comparison, in units of about a microsecond, so that no pair of answers takes long.

Counted, not timed: the same pair has the same verdict on any machine under any load.
"""

from __future__ import annotations

import threading

BUDGET = 100_000


class UndefinedError(ValueError):
    """The expression has no value: division by zero, an unknown function, infinity inside."""


class TooBigError(ValueError):
    """The value, or the work to find it, is out of the range that is computed."""


class _Left(threading.local):
    units = BUDGET


_left = _Left()


def reset() -> None:
    """Start a new comparison, or a new reading of a text, on this thread with the whole budget."""
    _left.units = BUDGET


def charge(units: int) -> None:
    """Take `units` off this thread's budget. Raises TooBigError when it is used up."""
    _left.units -= units
    if _left.units < 0:
        raise TooBigError("more work than one comparison may take")
