"""Brackets around everything: sets, intervals, tuples, rows of a matrix."""

from __future__ import annotations

from collections.abc import Callable

from deepscaler.answers.expressions.parser import parse_expression
from deepscaler.answers.grammar.matrices import MAX_CELLS
from deepscaler.answers.grammar.scalars import trimmed
from deepscaler.answers.grammar.sets import EMPTY
from deepscaler.answers.kinds import Answer, Conditioned, Items, Matrix, Named, Reals, Span
from deepscaler.answers.tokens.brackets import Tokens, closing, is_sign, split, top_level
from deepscaler.answers.tokens.lexer import Token, UnreadableError

Read = Callable[[Tokens], Answer]
MAX_ITEMS = 60
MAX_BRACKETS = 60  # around everything, one in another  # around everything, one in another


def read_enclosed(tokens: Tokens, read: Read) -> Answer | None:
    """Brackets around everything, with commas inside: set, interval or tuple."""
    if len(tokens) > 5 and tokens[0].value.isupper() and tokens[0].value != "C" and is_sign(tokens[1], "("):
        point = read_enclosed(tokens[1:], read)  # P(2, 3)
        return Named(tokens[0].value, point, None) if isinstance(point, Items) else None
    french = _with_french_brackets(tokens)
    if french is not None:
        return read_enclosed(french, read)
    first, last = tokens[0].value, tokens[-1].value
    if not is_sign(tokens[0], "(", "[", "{", "\\{") or closing(tokens, 0) != len(tokens) - 1:
        return None
    inner = tokens[1:-1]
    for _ in range(MAX_BRACKETS):
        if not (first == "(" and len(inner) > 2 and is_sign(inner[0], "(") and closing(inner, 0) == len(inner) - 1):
            break
        inner = inner[1:-1]
    if first == "[" and last == "]":
        rows = _rows_in_brackets(inner)
        if rows is not None:
            return rows
    if first == "\\{" and last == "\\}":
        return _set(inner, read)
    parts = split(inner, lambda t: is_sign(t, ",", ";"))
    if len(parts) == 1:
        return read(inner) if first == "(" and last == ")" else None
    if first == "{":
        return Items("set", tuple(read(part) for part in parts))
    if len(parts) > MAX_ITEMS:
        raise UnreadableError("too many items")
    if len(parts) > 2 and (first, last) not in (("(", ")"), ("[", "]")):
        raise UnreadableError("brackets that do not match")
    if len(parts) == 2 and (first, last) != ("(", ")"):
        low, high = (parse_expression(trimmed(part)) for part in parts)
        return Reals((Span(low, first == "[", high, last == "]"),))
    return _points([read(part) for part in parts])


def _points(entries: list[Answer]) -> Items:
    r"""One tuple, or the two of `(\pm1, 0)`. Several signs stay: nothing says how they belong together."""
    double = [i for i, entry in enumerate(entries) if isinstance(entry, Items) and entry.kind == "list"]
    entry = entries[double[0]] if len(double) == 1 else None
    if not isinstance(entry, Items):
        return Items("tuple", tuple(entries))
    both = ([*entries[: double[0]], value, *entries[double[0] + 1 :]] for value in entry.items)
    return Items("list", tuple(Items("tuple", tuple(point)) for point in both))


def _with_french_brackets(tokens: Tokens) -> Tokens | None:
    """`]1,2]` as `(1,2]`; None for anything else."""
    signs = [t.value for t in tokens if is_sign(t, "[", "]")]
    if len(signs) != 2 or (signs[0] == "[" and signs[1] == "]"):
        return None
    if not is_sign(tokens[0], "[", "]") or not is_sign(tokens[-1], "[", "]"):
        return None
    first = Token("sign", "(") if tokens[0].value == "]" else tokens[0]
    last = Token("sign", ")") if tokens[-1].value == "[" else tokens[-1]
    return [first, *tokens[1:-1], last]


def _rows_in_brackets(inner: Tokens) -> Matrix | None:
    """`[1,2],[3,4]` in brackets, rows of a matrix."""
    rows = split(inner, lambda t: is_sign(t, ","))
    if not all(len(r) > 2 and is_sign(r[0], "[") and closing(r, 0) == len(r) - 1 and is_sign(r[-1], "]") for r in rows):
        return None
    cells = [[parse_expression(trimmed(c)) for c in split(r[1:-1], lambda t: is_sign(t, ","))] for r in rows]
    if len({len(row) for row in cells}) > 1 or len(cells) * len(cells[0]) > MAX_CELLS:
        raise UnreadableError("rows of different lengths, or too many")
    return Matrix(tuple(map(tuple, cells)))


def _set(inner: Tokens, read: Read) -> Answer:
    condition = split(inner, lambda t: is_sign(t, "|", ":"))
    if len(condition) > 2:
        condition = _absolute(inner, len(condition[0]))
    if len(condition) == 2:
        answer = _with_condition(condition[0], condition[1], read)
        if answer is not None:
            return answer
    if not inner:
        return EMPTY
    answer = read(inner)
    return Items("set", answer.items if isinstance(answer, Items) and answer.kind == "list" else (answer,))


def _absolute(inner: Tokens, place: int) -> list[Tokens]:
    r"""The variable and the condition of `z : |z|=1`, split at the first separator; empty for anything else."""
    value, condition = inner[:place], inner[place + 1 :]
    bars = sum(is_sign(t, "|") for t in condition)
    variable = place == 1 and value[0].kind == "letters" and any(t.value == value[0].value for t in condition)
    compared = any(is_sign(t, "=", "<", ">", "le", "ge") for _, t in top_level(condition))
    return [value, condition] if variable and compared and bars % 2 == 0 else []


def _with_condition(value: Tokens, condition: Tokens, read: Read) -> Answer | None:
    r"""`\{x : x > 0\}` is its condition, `\{2k : k\in\mathbb{Z}\}` its formula with what the letter ranges over."""
    said = {t.value for t in condition}
    point = is_sign(value[0], "(") and any(t.value in said for t in value)
    if len(value) <= 5 and (point or (value[0].value in said and (len(value) == 1 or is_sign(value[1], "in", "_")))):
        return read(condition)
    if len(condition) == 3 and condition[0].kind == "letters" and condition[2].value in ("ℤ", "ℕ"):
        return Conditioned(read(value), (), condition[0].value)
    return read([*value, Token("sign", ","), *condition])
