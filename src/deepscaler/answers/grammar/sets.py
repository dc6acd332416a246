"""Sets of real numbers as they are written: ℝ, ∅, unions, intersections, differences."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from deepscaler.answers.comparison.intervals import (
    EVERYTHING,
    MINUS_INFINITY,
    complement,
    intersection,
    spans_of,
    union,
    without_points,
)
from deepscaler.answers.kinds import Answer, Items, Prose, Reals, Scalar, Span
from deepscaler.answers.tokens.brackets import Tokens, is_sign, split, top_level
from deepscaler.answers.tokens.lexer import UnreadableError
from deepscaler.answers.tokens.vocabulary import EVERY_REAL
from deepscaler.answers.trees import INFINITY

ALL_REALS = Reals((EVERYTHING,))
EMPTY = Items("set", ())
_OPERATIONS = frozenset(["cup", "cap", "setminus"])
_ZERO, _POSITIVE = ("num", Fraction(0), 0), Reals((Span(("num", Fraction(0), 0), False, INFINITY, False),))
_HALVES = {
    **dict.fromkeys(["^+", "_+", "_>0", "^*_+", "_+^*"], _POSITIVE),
    **dict.fromkeys(["^-", "_-", "_<0"], Reals((Span(MINUS_INFINITY, False, _ZERO, False),))),
    **dict.fromkeys(["_ge0", "^+_0", "_0^+"], Reals((Span(_ZERO, True, INFINITY, False),))),
    **dict.fromkeys(["_le0", "^-_0", "_0^-"], Reals((Span(MINUS_INFINITY, False, _ZERO, True),))),
}
_WHOLE_HALVES = {
    **dict.fromkeys(["^+", "_+", "_>0", "_ge1", "^*", "^*_+", "_+^*"], "positive integers"),
    **dict.fromkeys(["^-", "_-", "_<0"], "negative integers"),
    **dict.fromkeys(["_ge0", "_0", "^0", "^+_0", "_0^+"], "nonnegative integers"),
}
HALVES_IN_WORDS = {
    f"{front}{kind} {back}": _HALVES[mark]
    for kind, mark in (("positive", "^+"), ("negative", "^-"), ("nonnegative", "_ge0"), ("non-negative", "_ge0"))
    for front in ("all ", "", "every ", "any ")
    for back in ("real numbers", "reals", "real number")
}
_EXCEPT = frozenset(["except", "but", "excluding", "without"])


def read_set(tokens: Tokens, read: Callable[[Tokens], Answer]) -> Answer | None:
    """None for anything else than a set of these. Raises UnreadableError."""
    if len(tokens) == 1 and tokens[0].kind == "cmd":
        name = tokens[0].value
        return Prose(name) if name in ("ℤ", "ℕ", "ℚ", "ℂ") else {"ℝ": ALL_REALS, "emptyset": EMPTY}.get(name)
    if len(tokens) > 1 and tokens[0].value == "ℝ" and is_sign(tokens[1], "^", "_"):
        return _HALVES.get("".join(t.value for t in tokens[1:] if t.value not in ("{", "}")))
    if len(tokens) > 1 and tokens[0].value in ("ℤ", "ℕ") and is_sign(tokens[1], "^", "_"):
        mark = "".join(t.value for t in tokens[1:] if t.value not in ("{", "}"))
        return Prose(_WHOLE_HALVES[mark]) if mark in _WHOLE_HALVES else None
    if len(tokens) > 3 and tokens[0].value == "ℝ" and is_sign(tokens[1], "-"):
        return Reals(without_points([span.low for span in spans_of(read(tokens[2:]))]))
    place = next((i for i, t in enumerate(tokens) if t.value.lower() in _EXCEPT), 0)
    if place and " ".join(t.value.lower() for t in tokens[:place]) in EVERY_REAL:
        return _all_but(read([t for t in tokens[place + 1 :] if t.value.lower() not in ("for", "x")]))
    if not any(t.value in _OPERATIONS for t in tokens):
        return None
    if any(is_sign(t, "in", "=") for _, t in top_level(tokens)):
        return None
    for sign in ("cup", "cap", "setminus"):
        parts = split(tokens, lambda t, sign=sign: is_sign(t, sign))
        if len(parts) > 1:
            return Reals(_combined(sign, [read(part) for part in parts]))
    return None


def _all_but(answer: Answer) -> Reals:
    items = answer.items if isinstance(answer, Items) else (answer,)
    trees = [item.tree for item in items if isinstance(item, Scalar)]
    if len(trees) < len(items):
        raise UnreadableError("all real numbers except what are no numbers")
    return Reals(without_points(trees))


def _combined(sign: str, answers: list[Answer]) -> tuple[Span, ...]:
    spans = [spans_of(answer) for answer in answers]
    if sign == "cup":
        return union([span for group in spans for span in group])
    if len(spans) != 2:
        raise UnreadableError("sets that are not worked out")
    if sign == "cap":
        return _known(intersection(spans[0], spans[1]))
    if isinstance(answers[1], Items) and answers[1].kind == "tuple":
        holes = _known(complement(spans[1]))
    elif isinstance(answers[1], Items):
        holes = without_points([span.low for span in spans[1]])
    else:
        holes = _known(complement(spans[1]))
    return holes if answers[0] == ALL_REALS else _known(intersection(spans[0], holes))


def _known(spans: tuple[Span, ...] | None) -> tuple[Span, ...]:
    if spans is None:
        raise UnreadableError("sets whose endpoints are no constants")
    return spans
