r"""What turns an answer into another one though its value is the same: 6 a.m. is not 6 p.m., 3 north is not 3 south.

Units, counted things and what a variable ranges over may be dropped, so texts that differ in them can be equal. Where
both have them they must not exclude each other: `n\in\mathbb{Z}` is not `n\in\mathbb{N}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PAIRS = (
    ("am", "pm"),
    ("north", "south"),
    ("east", "west"),
    ("left", "right"),
    ("up", "down"),
    ("above", "below"),
    ("clockwise", "counterclockwise"),
    ("clockwise", "anticlockwise"),
    ("celsius", "fahrenheit"),
    ("positive", "negative"),
    ("profit", "loss"),
    ("gain", "loss"),
    ("increase", "decrease"),
    ("more", "less"),
    ("more", "fewer"),
    ("before", "after"),
    ("faster", "slower"),
    ("odd", "even"),
)
_COMMAND = re.compile(r"\\(?:left|right|pm|[a-zA-Z]+(?=\s*\{))")
_ARROW = re.compile(r"\\(?:overrightarrow|overleftarrow|vec)\s*\{\s*([A-Za-z]{2,})\s*\}")
_SETS = frozenset("ℤℕℚℝℂ") | {"mathbb"}  # the last one is for any other
_SET_WORDS = {
    "integer": "ℤ", "integers": "ℤ", "natural": "ℕ", "naturals": "ℕ", "rational": "ℚ", "rationals": "ℚ", "real": "ℝ",
    "reals": "ℝ", "complex": "ℂ",
}  # fmt: skip
_RANGING = frozenset(["in", *_SET_WORDS])
_POSITIVE = frozenset(["positive", "nonnegative", "negative"])
_BOUNDS = frozenset(["<", ">", "le", "ge", "ne"])
_WORD = re.compile(r"[a-z]{2,}")


def contrary_words(left: str, right: str) -> str:
    """The pair of which one text holds the one word only and the other the other, as `am/pm`; "" for none."""
    words, others = _words(left), _words(right)
    for pair in _PAIRS if words and others else ():
        a, b = words.intersection(pair), others.intersection(pair)
        if len(a) == 1 and len(b) == 1 and a != b:
            return "/".join(pair)
    return ""


def _words(text: str) -> set[str]:
    # `p.m.` is one word; commands such as \left and \pm are none.
    return set(_WORD.findall(_COMMAND.sub(" ", text).lower().replace("a.m", " am ").replace("p.m", " pm ")))


def contrary_arrows(left: str, right: str) -> str:
    """Vectors of which both texts name some, and not the same: from A to B and from B to A; "" for none."""
    vectors, others = set(_ARROW.findall(left)), set(_ARROW.findall(right))
    return f"{min(vectors)}/{min(others)}" if vectors and others and vectors != others else ""


def contrary_ranges(left: Sequence[str], right: Sequence[str]) -> str:
    """What a variable ranges over, in the values of the tokens of both texts, where it is not the same; "" for none."""
    sets, others = _ranges(left), _ranges(right)
    if sets <= others or others <= sets:
        return ""
    if sets | others == {"ℤ", "ℕ"} and not _BOUNDS.isdisjoint((*left, *right)):
        return ""  # n in ℤ with n ≥ 1 is n in ℕ
    return f"{min(sets - others)}/{min(others - sets)}"


def _ranges(values: Sequence[str]) -> set[str]:
    found: set[str] = set()
    if _RANGING.isdisjoint(values):
        return found
    for before, value, behind in zip(("", *values), values, (*values[1:], ""), strict=False):
        if before == "in" and value in _SETS:
            found.add("ℕ" if value == "ℤ" and behind in ("^", "_") else value)
        elif value in _SET_WORDS:
            found.add("ℕ" if before in _POSITIVE and value.startswith("integer") else _SET_WORDS[value])
    return found
