"""Numbers in another base than ten."""

from __future__ import annotations

import re

from deepscaler.answers.kinds import Answer, Based
from deepscaler.answers.tokens.brackets import Tokens, is_sign
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import NUMBER_WORDS

_DIGITS = re.compile(r"(?=.*[0-9])[0-9A-Z]+")


def read_based(tokens: Tokens) -> Answer | None:
    """Digits with a base as subscript: `1010_2`, `(2BF)_{16}`, `1010_{two}`."""
    tokens = _with_base_below(tokens)
    place = next((i for i, t in enumerate(tokens) if t.value == "_"), 0)
    script = [t for t in tokens[place + 1 :] if t.value not in ("{", "}", "(", ")")]
    negative = bool(tokens) and is_sign(tokens[0], "-")
    digits = "".join(t.value for t in tokens[negative:place] if t.value not in ("(", ")")).upper()
    if place == 0 or len(script) != 1 or not _DIGITS.fullmatch(digits):
        return None
    word = script[0].value.lower()
    base = int(word) if word.isdigit() and len(word) < 3 else NUMBER_WORDS.get(word)
    if base is None or base < 2 or (base <= 10 and not digits.isdigit()):
        return None
    return Based("-" * negative + (digits.lstrip("0") or "0"), base)


def _with_base_below(tokens: Tokens) -> Tokens:
    """`1010 (base 2)` and `1010_{base 2}` as `1010_2`."""
    place = next((i for i, t in enumerate(tokens) if t.value == "base"), 0)
    if place == 0:
        return tokens
    before = [t for t in tokens[:place] if t.value not in ("_", "{", "(")]
    behind = [t for t in tokens[place + 1 :] if t.value not in ("}", ")")]
    return [*before, Token("sign", "_"), *behind]
