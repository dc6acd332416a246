"""Letters of multiple choice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from deepscaler.answers.kinds import Answer, Choice
from deepscaler.answers.tokens.brackets import Tokens, is_sign
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import AND, OR

Read = Callable[[Tokens], Answer]


def read_choice(tokens: Tokens, read: Read) -> Answer | None:
    """`(B)`, `(B) 12`, `B. 12`, `B) 12`; a bare letter is a variable until it is compared with a choice."""
    opened = is_sign(tokens[0], "(")
    place = 1 if opened else 0
    if len(tokens) < place + 2 or tokens[place].kind not in ("letters", "roman"):
        return None
    letter, mark = tokens[place].value, tokens[place + 1]
    if len(letter) != 1 or not "A" <= letter <= "J" or not is_sign(mark, ")", *(() if opened else (".", ":"))):
        return None
    rest = tokens[place + 2 :]
    if not opened and (not rest or (mark.value == ":" and not rest[0].spaced)):
        return None
    if rest and not rest[0].spaced and rest[0].kind not in ("prose", "num"):
        return None
    if rest and (joins(rest[0], AND) or joins(rest[0], OR) or _has_choice(rest)):
        return None
    return Choice(letter, read(rest) if rest else None)


def _has_choice(tokens: Tokens) -> bool:
    """Whether the tokens hold another choice: `A: 3, B: 4`."""
    return any(
        t.kind in ("letters", "roman") and "A" <= t.value <= "J" and len(t.value) == 1 and is_sign(mark, ":", ")")
        for t, mark in pairwise(tokens)
    )


def joins(token: Token, words: frozenset[str]) -> bool:
    return token.kind in ("prose", "cmd", "letters") and token.value.lower() in words
