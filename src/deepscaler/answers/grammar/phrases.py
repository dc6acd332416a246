r"""Words around exactly one value: `\text{The maximum is }5`, `\text{Probability: }\frac12`, `x=5\text{ only}`.

A word that denies or doubts (`vocabulary.REFUSING`), or a bound like "at least", leaves the text unread, and so wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from deepscaler.answers.grammar.names import refuses
from deepscaler.answers.kinds import Answer, Named, Prose
from deepscaler.answers.tokens.brackets import Tokens, is_sign, top_level
from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.tokens.vocabulary import (
    AND,
    ARTICLES,
    CLOSING_WORDS,
    FOREIGN_LINKS,
    FOREIGN_REFUSING,
    LEADS,
    LINKING,
    OR,
    SUBORDINATE,
)
from deepscaler.answers.trees import FUNCTIONS

MAX_WORDS = 24
Read = Callable[[Tokens], Answer]
_EQUAL_TO = frozenset(["equal", "to", "given", "by", "exactly", ":"])
_NO_SUBJECT = frozenset(["=", "<", ">", "le", "ge", "ne", "approx", ";"])
_POINTING = frozenset(["the", "our", "your"])


def read_phrase(tokens: Tokens, read: Read) -> Answer | None:
    """None if there are no words around a value. Raises UnreadableError."""
    if not any(is_word(t) for t in tokens):
        return None
    for rule in (_led, _labelled, _sentence, _closed):
        answer = rule(tokens, read)
        if answer is not None:
            return answer
    return None


def is_word(token: Token) -> bool:
    if token.kind == "prose":
        return True
    return token.kind == "letters" and len(token.value) > 1 and token.value not in FUNCTIONS


def _led(tokens: Tokens, read: Read) -> Answer | None:
    """`共5种`: a word in front that says nothing."""
    if len(tokens) < 2 or tokens[0].value.casefold() not in LEADS:
        return None
    return read(tokens[2 if is_sign(tokens[1], ":") else 1 :])


def _labelled(tokens: Tokens, read: Read) -> Answer | None:
    r"""`\text{Number of ways: }5`."""
    place = next((i for i, t in top_level(tokens) if is_sign(t, ":")), 0)
    label, rest = tokens[:place], tokens[place + 1 :]
    if not rest or not _is_subject(label) or not _is_label(label):
        return None
    if any(is_word(before) and is_sign(t, ":") for before, t in pairwise(rest)):
        return None  # two labels: a list
    return _named(label, rest, read)


def _sentence(tokens: Tokens, read: Read) -> Answer | None:
    r"""`\text{The minimum value of }f\text{ is }5`; `最大值为5`."""
    place = next((i for i, t in reversed([*top_level(tokens)]) if i and _links(t) and _has_value(tokens[i + 1 :])), 0)
    if not place and _is_foreign_link(tokens[0]):
        return _named(tokens[:1], tokens[1:], read) if len(tokens) > 1 else None
    subject, rest = tokens[:place], tokens[place + 1 :]
    while len(rest) > 1 and rest[0].value.lower() in _EQUAL_TO:
        rest = rest[1:]
    if not subject or not _is_subject(subject) or refuses(rest[0]):
        return None
    if any(map(_links, subject)) and any(t.value.lower() in AND | OR or is_sign(t, ",") for t in subject):
        return None  # two sentences: a list
    return _named(subject, rest, read)


def _closed(tokens: Tokens, read: Read) -> Answer | None:
    r"""`x=5\text{ only}`, `5\text{ is the minimum}`."""
    start = len(tokens)
    while start and is_word(tokens[start - 1]):
        start -= 1
    words = [t.value.lower() for t in tokens[start:]]
    if 0 < start < len(tokens) and (" ".join(words) in CLOSING_WORDS or words[-1] == "only"):
        return read(tokens[: len(tokens) - (1 if words[-1] == "only" else len(words))])
    if start > 1 and is_sign(tokens[start - 1], "%") and words == ["increase"]:
        return read(tokens[:start])
    place = next((i for i, t in top_level(tokens) if i and t.value.lower() in LINKING and is_word(t)), 0)
    value, rest = tokens[:place], tokens[place + 1 :]
    if not place or not rest or any(map(is_word, value)) or rest[0].value.lower() not in _POINTING:
        return None
    return read(value) if _is_subject(rest) and not any(t.kind == "num" for t in rest) else None


def _named(subject: Tokens, rest: Tokens, read: Read) -> Answer | None:
    value = read(rest)
    if isinstance(value, Prose) and not value.product:
        return None
    words = [t.value if len(t.value) == 1 else t.value.lower() for t in subject if t.value not in ("{", "}", "$")]
    while len(words) > 1 and words[0] in (*ARTICLES, "value", "of"):
        words.pop(0)
    if len(words) > 1 and words[-1] == "value":
        words.pop()
    return Named(" ".join(words), value, None)


def _is_subject(tokens: Tokens) -> bool:
    """Whether the tokens may be what has the value: no denial, no condition, no bound."""
    if not 0 < len(tokens) <= MAX_WORDS or any(map(refuses, tokens)):
        return False
    words = [t.value.lower() for t in tokens]
    if any(word in SUBORDINATE or any(sign in word for sign in FOREIGN_REFUSING) for word in words):
        return False
    if any(pair in (("at", "least"), ("at", "most")) for pair in pairwise(words)):
        return False
    return not any(t.kind in ("sign", "cmd") and t.value in _NO_SUBJECT for _, t in top_level(tokens))


def _is_label(tokens: Tokens) -> bool:
    capitals = tokens[0].kind == "letters" and tokens[0].value.isupper()  # AB : CD is a ratio
    return any(map(is_word, tokens)) and not capitals and "num" not in (tokens[0].kind, tokens[-1].kind)


def _links(token: Token) -> bool:
    upright = token.kind == "prose" or (token.spaced and token.value.islower())  # Be^x is a product
    return is_word(token) and ((upright and token.value.lower() in LINKING) or _is_foreign_link(token))


def _is_foreign_link(token: Token) -> bool:
    foreign = token.kind == "prose" and not token.value.isascii() and token.value.endswith(FOREIGN_LINKS)
    return foreign and not any(sign in token.value for sign in FOREIGN_REFUSING)


def _has_value(tokens: Sequence[Token]) -> bool:
    if not tokens or tokens[0].value.lower() in _POINTING:
        return False
    return any(t.kind in ("num", "cmd") or (t.kind == "letters" and len(t.value) == 1) for t in tokens)
