r"""Exact rational numbers written the way answers write them. A small grammar of our own; nothing is evaluated.

number   = [sign] ( fraction | decimal )
fraction = digits "/" digits | "\frac" {digits} {digits} | "\frac" digit digit
decimal  = digits [ "." digits ] | "." digits,   digits may be grouped in thousands by , {,} \, or \!
"""

from __future__ import annotations

import re
from fractions import Fraction

# Python refuses to read longer integers by default, since reading takes quadratic time.
MAX_DIGITS = 4000
_INTEGER = r"(?:\d{1,3}(?:(?:,|\{,\}|\\[,!])\d{3})+|\d+)"
_DECIMAL = re.compile(rf"({_INTEGER})?(?:\.(\d*))?")
_RATIO = re.compile(r"(-?\d+)/(-?\d+)")
_FRAC = re.compile(r"\\[dtc]?frac(?:\{([+-]?\d+)\}\{([+-]?\d+)\}|(\d)(\d)|(\d)\{(\d+)\}|\{(\d+)\}(\d))")
_SEPARATOR = re.compile(r",|\{,\}|\\[,!]")


def exact_number(text: str) -> Fraction | None:
    """The value of `text`, or None when it is no number of this grammar or has more than MAX_DIGITS characters."""
    if not text or len(text) > MAX_DIGITS:
        return None
    sign = 1
    if text[0] in "+-":
        sign = -1 if text[0] == "-" else 1
        text = text[1:]
    value = _fraction(text)
    if value is None:
        value = _decimal(text)
    return None if value is None else sign * value


def _fraction(text: str) -> Fraction | None:
    match = _RATIO.fullmatch(text) or _FRAC.fullmatch(text)
    if match is None:
        return None
    top, bottom = (int(part) for part in match.groups() if part is not None)
    return Fraction(top, bottom) if bottom else None


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if match is None or not (match.group(1) or match.group(2)):
        return None
    whole = _SEPARATOR.sub("", match.group(1) or "0")
    places = match.group(2) or ""
    return Fraction(int(whole + places), 10 ** len(places))
