"""Answers of words alone: a fixed phrase with a meaning, a number, or prose."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from deepscaler.answers.expressions.parser import parse_expression
from deepscaler.answers.grammar.sets import ALL_REALS, EMPTY, HALVES_IN_WORDS
from deepscaler.answers.kinds import Answer, Prose, Scalar
from deepscaler.answers.tokens.brackets import Tokens, is_sign
from deepscaler.answers.tokens.lexer import Token, UnreadableError
from deepscaler.answers.tokens.vocabulary import ARTICLES, EVERY_REAL, NO_SOLUTION, NUMBER_WORDS, SAME_WORDS
from deepscaler.answers.trees import FUNCTIONS, INFINITY, Tree


def read_prose(tokens: Tokens) -> Answer | None:
    """Words only, at least one of two letters or more."""
    words = [t for t in tokens if t.kind in ("prose", "letters", "roman")]
    if not any(len(t.value) > 1 for t in words) or is_sign(tokens[0], "-", "/"):
        return None
    if len(words) == 1 and (words[0].value in FUNCTIONS or words[0].value in ("pi", "infty", "oo", "inf")):
        return None
    if any(t.kind in ("num", "cmd") or (t.kind == "sign" and t.value not in "-'.?!\"&/()") for t in tokens):
        return None
    if _is_applied(tokens):
        return None
    said = [t.value.casefold() for i, t in enumerate(words) if not _is_article(t, first=i == 0)]
    text = " ".join(said)
    text = SAME_WORDS.get(text, text)
    if text in EVERY_REAL:
        return ALL_REALS
    if text in HALVES_IN_WORDS:
        return HALVES_IN_WORDS[text]
    if text in NO_SOLUTION:
        return EMPTY
    if text == "∞":
        return Scalar(INFINITY)
    if text in NUMBER_WORDS:
        return Scalar(("num", Fraction(NUMBER_WORDS[text]), 0))
    return Prose(text, _letters_product(tokens))


def _is_article(token: Token, *, first: bool) -> bool:
    """A capital A behind another word is a name: Plan A."""
    return token.value.casefold() in ARTICLES and (first or token.value != "A")


def _is_applied(tokens: Tokens) -> bool:
    """`sqrt(x)`, `x sin x`: a function and its argument, and no other word."""
    applied = any(t.value in FUNCTIONS and (is_sign(n, "(") or len(n.value) == 1) for t, n in pairwise(tokens))
    return applied and all(len(t.value) == 1 or t.value in FUNCTIONS for t in tokens)


def _letters_product(tokens: Tokens) -> Tree | None:
    """`xy` as a product of variables, `kx-k` as a difference; a longer run or one of capitals is a word."""
    runs = [t for t in tokens if t.kind == "letters"]
    if len(runs) < len(tokens) and all(len(t.value) < 3 for t in runs):
        try:
            return parse_expression(tokens)
        except UnreadableError:
            return None
    if len(runs) < len(tokens) or sum(len(t.value) for t in tokens) > 4:
        return None
    if sum(len(t.value) for t in tokens) > 2 and all(t.value.isupper() for t in tokens):
        return None
    return parse_expression(tokens)
