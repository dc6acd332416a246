"""Rows behind a brace or below each other."""

from __future__ import annotations

from collections.abc import Callable

from deepscaler.answers.grammar.assembly import assembled
from deepscaler.answers.grammar.matrices import environment_rows
from deepscaler.answers.grammar.relations import RELATIONS
from deepscaler.answers.kinds import Answer, Items
from deepscaler.answers.tokens.brackets import Tokens, is_sign

Read = Callable[[Tokens], Answer]
_ALIGNED = frozenset(["aligned", "align", "alignedat", "gathered", "gather", "split", "eqnarray"])


def read_system(tokens: Tokens, read: Read) -> Answer | None:
    """Rows behind a brace: equations that hold together, or the pieces of a function with their conditions."""
    if len(tokens) > 9 and is_sign(tokens[0], "\\{") and is_sign(tokens[1], "begin"):
        tokens = tokens[1:]
    elif not (len(tokens) > 9 and (tokens[2].value in _ALIGNED | {"cases"} or _is_stack(tokens))):
        return None
    if not is_sign(tokens[0], "begin") or not is_sign(tokens[-4], "end"):
        return None
    rows = [_joined(row, aligned=tokens[2].value in _ALIGNED) for row in environment_rows(tokens)]
    if all(len(row) == 1 for row in rows):
        return assembled([read(row[0]) for row in rows], meet=True)
    pieces = [tuple(_piece(cell, read) for cell in row) for row in rows]
    return Items("list", tuple(Items("tuple", piece) for piece in pieces))


def _joined(row: list[Tokens], *, aligned: bool) -> list[Tokens]:
    """The row as one cell where `&` only sets its signs below each other: `x &= 1`."""
    if not aligned and not any(cell and is_sign(cell[0], *RELATIONS) for cell in row[1:]):
        return row
    return [[token for cell in row for token in cell]]


def _is_stack(tokens: Tokens) -> bool:
    """An array of equations without brackets."""
    return tokens[2].value == "array" and any(is_sign(t, "=") for t in tokens)


def _piece(cell: Tokens, read: Read) -> Answer:
    while cell and (cell[0].value in ("if", "for", "when") or is_sign(cell[0], ",")):
        cell = cell[1:]
    return read(cell)
