"""Whether two numbers measure the same, by their units, percent and degree signs; any of these may be missing."""

from __future__ import annotations

from deepscaler.answers.kinds import Scalar
from deepscaler.answers.units.parse import COUNT, RADIANS, UNIT_OF_ANYTHING
from deepscaler.answers.values.same_value import mentions

Dimensions = tuple[tuple[str, int], ...]
DEGREES: Dimensions = (("degree", 1),)
PERCENT: Dimensions = (("percent", 1),)
_ALSO_IN_DEGREES: tuple[Dimensions, ...] = (RADIANS.dimensions, (("celsius", 1),), (("fahrenheit", 1),))


def same_measure(a: Scalar, b: Scalar) -> bool:
    """Whether what both measure is the same; one of them that says nothing may have dropped it."""
    first, second = _measure(a), _measure(b)
    if first == second or not first or not second:
        return True
    both = {first, second}
    if DEGREES in both:
        return (second if first == DEGREES else first) in _ALSO_IN_DEGREES
    if UNIT_OF_ANYTHING.dimensions in both:
        other = second if first == UNIT_OF_ANYTHING.dimensions else first
        raised = other[0][0] in ("unit", "length") and other[0][1] != 1
        return not raised and other not in (PERCENT, RADIANS.dimensions, COUNT.dimensions)
    return _of_length(first) == _of_length(second)


def _of_length(dimensions: Dimensions) -> Dimensions:
    """Square units as square metres."""
    return tuple(("length" if name == "unit" else name, power) for name, power in dimensions)


def in_degrees_and_radians(a: Scalar, b: Scalar) -> bool:
    """Whether one is in degrees and the other certainly in radians: it says so, or it is a multiple of π."""
    if a.degree == b.degree:
        return False
    other = b if a.degree else a
    return other.unit == RADIANS or (other.unit is None and mentions(other.tree, "π"))


def _measure(scalar: Scalar) -> Dimensions:
    if scalar.unit is not None:
        return scalar.unit.dimensions
    return PERCENT if scalar.percent else DEGREES if scalar.degree else ()
