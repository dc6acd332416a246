"""From the tokens of an answer to the kind of thing it is, by its outermost structure first."""

from __future__ import annotations

from collections.abc import Callable

from deepscaler.answers.expressions.parser import parse_expression
from deepscaler.answers.grammar.asides import read_aside
from deepscaler.answers.grammar.assembly import assembled, distinct
from deepscaler.answers.grammar.bases import read_based
from deepscaler.answers.grammar.choices import joins, read_choice
from deepscaler.answers.grammar.clocks import read_clock
from deepscaler.answers.grammar.enclosures import MAX_ITEMS, read_enclosed
from deepscaler.answers.grammar.matrices import read_determinant, read_matrix
from deepscaler.answers.grammar.ordinals import read_ordinal
from deepscaler.answers.grammar.phrases import read_phrase
from deepscaler.answers.grammar.prose import read_prose
from deepscaler.answers.grammar.relations import read_relation
from deepscaler.answers.grammar.scalars import number_condition, number_in_words, qualification, scalar, trimmed
from deepscaler.answers.grammar.sets import read_set
from deepscaler.answers.grammar.symbols import read_chain_of_names, read_named_sets
from deepscaler.answers.grammar.systems import read_system
from deepscaler.answers.kinds import Answer, Conditioned, Items, Residue, Scalar
from deepscaler.answers.tokens.brackets import Tokens, is_sign, split, top_level
from deepscaler.answers.tokens.lexer import UnreadableError
from deepscaler.answers.tokens.vocabulary import AND, OR
from deepscaler.answers.units.quantities import read_quantity

Read = Callable[[Tokens], Answer]
MAX_DEPTH = 8


def read_answer(tokens: Tokens, depth: int = 0) -> Answer:
    """Raises UnreadableError for a text of none of the `kinds`."""
    start = 0 if depth else number_condition(tokens) or qualification(tokens)
    if start:
        parameter = next((t.value for t in tokens[start:] if t.kind == "letters" and len(t.value) == 1), "")
        whole = any(t.value in ("ℤ", "ℕ", "integer", "integers") for t in tokens[start:])
        return Conditioned(read_answer(tokens[:start], 1), (), parameter if whole else "")
    tokens = number_in_words(trimmed(tokens))
    if not tokens or depth > MAX_DEPTH:
        raise UnreadableError("nothing there" if not tokens else "nested too deeply")

    def read(part: Tokens) -> Answer:
        return read_answer(part, depth + 1)

    for rule in _RULES:
        answer = rule(tokens, read)
        if answer is not None:
            return answer
    determinant = read_determinant(tokens)
    if determinant is not None:
        return Scalar(determinant)
    matrix = read_matrix(tokens)
    return scalar(tokens) if matrix is None else matrix


def _listed(tokens: Tokens, read: Read) -> Answer | None:
    """Parts between `;`, or else between commas, "and" and "or"."""
    joints = [t for _, t in top_level(tokens) if is_sign(t, ",", ";", "\\\\") or joins(t, AND) or joins(t, OR)]
    if not joints:
        return None
    either, both = any(joins(t, OR) for t in joints), any(joins(t, AND) for t in joints)
    if any(is_sign(t, ";") for t in joints):
        parts = split(tokens, lambda t: is_sign(t, ";"))
    elif either and both:
        parts = split(tokens, lambda t: joins(t, OR))  # "and" binds more closely
    else:
        parts = split(tokens, lambda t: is_sign(t, ",", "\\\\") or joins(t, AND) or joins(t, OR))
    parts = [part for part in parts if part]
    if len(parts) > MAX_ITEMS:
        raise UnreadableError("too many items")
    items: list[Answer] = []
    for part in parts:
        answer = read(part)
        items += answer.items if isinstance(answer, Items) and answer.kind == "list" else [answer]
    if either:
        items = distinct(items)
    return assembled(items, meet=True if both and not either else False if either else None)


def _residue(tokens: Tokens, read: Read) -> Answer | None:
    place = next((i for i, t in enumerate(tokens) if t.value in ("pmod", "mod") and i), None)
    if place is None:
        return None
    bracketed = is_sign(tokens[place - 1], "(") and place > 1  # 5 (mod 7)
    if tokens[place].value != "pmod" and not bracketed:
        return None
    modulus = [t for t in tokens[place + 1 :] if t.value not in ("{", "}", "(", ")")]
    value = scalar(tokens[: place - bracketed])
    return Residue(value.tree, parse_expression(modulus)) if isinstance(value, Scalar) else None


def _quantity(tokens: Tokens, read: Read) -> Answer | None:
    return read_quantity(tokens) if len(tokens) > 3 and tokens[0].kind == "num" else None


def _clock(tokens: Tokens, read: Read) -> Answer | None:
    return read_clock(tokens)


def _ratio(tokens: Tokens, read: Read) -> Answer | None:
    parts = split(tokens, lambda t: is_sign(t, ":"))
    return None if len(parts) < 2 else Items("ratio", tuple(scalar(trimmed(part)) for part in parts))


def _prose(tokens: Tokens, read: Read) -> Answer | None:
    return read_prose(tokens)


def _ordinal(tokens: Tokens, read: Read) -> Answer | None:
    return read_ordinal(tokens)


def _symbols(tokens: Tokens, read: Read) -> Answer | None:
    return read_named_sets(tokens) or read_chain_of_names(tokens)


def _based(tokens: Tokens, read: Read) -> Answer | None:
    return read_based(tokens)


# From the outermost structure to the innermost.
_RULES: tuple[Callable[[Tokens, Read], Answer | None], ...]
_RULES = (
    *(_ordinal, read_choice, _quantity, read_aside, read_phrase, _listed, read_system, _prose, _based, read_enclosed),
    *(_symbols, read_set),
    *(read_relation, _residue, _clock, _ratio),
)
