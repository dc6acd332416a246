"""Times: `3:30 PM`, `15:30`, `20:34:00`, 55 minutes as `55:00`. Without "a.m." or "p.m." one may be a ratio as well."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.kinds import Clock, Items, Scalar
from deepscaler.answers.tokens.brackets import Tokens, is_sign
from deepscaler.answers.tokens.lexer import Token

_HALVES = frozenset(["am", "pm"])


def read_clock(tokens: Tokens) -> Clock | None:
    """None for anything but a time of day."""
    half = tokens[-1].value.lower() if tokens[-1].kind in ("prose", "letters") else ""
    digits = tokens[:-1] if half in _HALVES else tokens
    half = half if half in _HALVES else ""
    if len(digits) not in (3, 5) or not all(is_sign(t, ":") for t in digits[1::2]):
        return None
    if not all(map(_is_time, digits[::2])) or any(len(t.value) != 2 for t in digits[2::2]):
        return None
    hour, minute, second = (int(t.value) for t in (*digits[::2], Token("num", "0"))[:3])
    if (half and hour > 12) or max(minute, second) > 59:
        return None
    ratio = Items("ratio", tuple(Scalar(("num", Fraction(int(t.value)), 0)) for t in digits[::2]))
    return Clock(hour, minute, second, half, ratio)


def _is_time(token: Token) -> bool:
    return token.kind == "num" and token.value.isdigit() and len(token.value) < 3
