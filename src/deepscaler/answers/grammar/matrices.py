"""Matrices: their environments, and sums, products and multiples of them worked out into cells of trees."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.expressions.parser import parse_expression
from deepscaler.answers.kinds import Matrix
from deepscaler.answers.tokens.brackets import Tokens, closing, is_sign, split, top_level
from deepscaler.answers.tokens.lexer import UnreadableError
from deepscaler.answers.trees import Tree

MAX_CELLS = 100
MAX_DETERMINANT = 4
MAX_FACTORS = 3  # matrices in a product
_ONE: Tree = ("num", Fraction(1), 0)
Rows = tuple[tuple[Tree, ...], ...]


def read_matrix(tokens: Tokens) -> Matrix | None:
    """A matrix or an expression of matrices; None if the tokens hold no matrix. Raises UnreadableError."""
    if not any(t.kind == "cmd" and t.value == "begin" for t in tokens):
        return None
    single = _single(tokens)
    if single is not None:
        return single
    rows: Rows | None = None
    sign = 1
    start = 0
    cuts = [i for i, t in top_level(tokens) if is_sign(t, "+", "-")]
    for end in [*cuts, len(tokens)]:
        if end > start:
            term = _scaled(_term(tokens[start:end]), ("num", Fraction(sign), 0))
            rows = term if rows is None else _sum(rows, term)
        if end < len(tokens):
            sign = -1 if tokens[end].value == "-" else 1
            start = end + 1
    if rows is None:
        raise UnreadableError("no matrix")
    return Matrix(rows)


def _single(tokens: Tokens) -> Matrix | None:
    transposed = _transposed(tokens)
    if transposed is not None:
        matrix = _single(transposed)
        return matrix and Matrix(tuple(zip(*matrix.rows, strict=True)))
    if len(tokens) > 2 and is_sign(tokens[0], "(", "[") and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    if _environment(tokens, 0) != len(tokens):
        return None
    name = tokens[2].value.rstrip("*")
    if not (name.endswith("matrix") or name == "array") or name == "vmatrix":
        raise UnreadableError(f"an environment {name!r}")
    return Matrix(_cells(tokens))


def _transposed(tokens: Tokens) -> Tokens | None:
    """The tokens before `^T`, in braces or not; None without it."""
    marks = [t.value for t in tokens[-4:]]
    for mark in (["^", "T"], ["^", "top"], ["^", "intercal"], ["^", "t"], ["^", "'"], ["'"]):
        for written in (mark, [*mark[:-1], "{", mark[-1], "}"]):
            if marks[-len(written) :] == written:
                return tokens[: -len(written)]
    return None


def read_determinant(tokens: Tokens) -> Tree | None:
    r"""The value of a `vmatrix`, or of `\det` of another matrix; None for anything else."""
    called = len(tokens) > 9 and tokens[0].value == "det"
    tokens = tokens[1:] if called else tokens
    if called and is_sign(tokens[0], "(", "[", "|") and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    if len(tokens) < 9 or not is_sign(tokens[0], "begin") or not tokens[2].value.rstrip("*").endswith("matrix"):
        return None
    if (tokens[2].value == "vmatrix") == called or tokens[2].value == "Vmatrix":
        return None
    if _environment(tokens, 0) != len(tokens):
        return None
    cells = _cells(tokens)
    if len(cells) != len(cells[0]) or len(cells) > MAX_DETERMINANT:
        raise UnreadableError("a determinant of no square, or of a large one")
    return _determinant(cells)


def _determinant(cells: Rows) -> Tree:
    if len(cells) == 1:
        return cells[0][0]
    terms: list[Tree] = []
    for column, cell in enumerate(cells[0]):
        minor = tuple(row[:column] + row[column + 1 :] for row in cells[1:])
        term: Tree = ("mul", cell, _determinant(minor))
        terms.append(("neg", term) if column % 2 else term)
    return ("add", *terms)


def _cells(tokens: Tokens) -> Rows:
    rows = environment_rows(tokens)
    cells = tuple(tuple(parse_expression(cell) for cell in row) for row in rows)
    if not cells or any(len(row) != len(cells[0]) for row in cells) or len(cells) * len(cells[0]) > MAX_CELLS:
        raise UnreadableError("rows of different lengths, or too many")
    return cells


def environment_rows(tokens: Tokens) -> list[list[Tokens]]:
    """The cells of the one environment that the tokens are, row by row."""
    body = list(tokens[4:-4])
    if tokens[2].value in ("array", "tabular") and body and is_sign(body[0], "{"):
        body = body[closing(body, 0) + 1 :]
    rows = [row for row in split(body, lambda t: is_sign(t, "\\\\")) if row]
    return [split(row, lambda t: is_sign(t, "&")) for row in rows]


def _environment(tokens: Tokens, start: int) -> int:
    r"""The index behind the `\end{…}` of the environment that begins at `start`; -1 where none does."""
    if start >= len(tokens) or not is_sign(tokens[start], "begin"):
        return -1
    end = next((i for i in range(start + 1, len(tokens)) if is_sign(tokens[i], "begin", "end")), None)
    if end is None or tokens[end].value == "begin" or end + 3 >= len(tokens) or end - start < 5:
        raise UnreadableError("an environment in another, or one that never ends")
    return end + 4


def _term(tokens: Tokens) -> Rows:
    """A product of numbers and matrices."""
    product: Rows | None = None
    if sum(is_sign(t, "begin") for t in tokens) > MAX_FACTORS:
        raise UnreadableError("a product of too many matrices")
    factor: Tree = _ONE
    position = 0
    while position < len(tokens):
        start = position
        end = _environment(tokens, position)
        if end > 0:
            while (
                end < len(tokens) and _transposed(tokens[position : end + 1]) is None and is_sign(tokens[end], "^", "{")
            ):
                end += 1
            end += end < len(tokens) and _transposed(tokens[position : end + 1]) is not None
            matrix = _single(tokens[position:end])
            if matrix is None:
                raise UnreadableError("a power of a matrix")
            product = matrix.rows if product is None else _product(product, matrix.rows)
            position = end
            continue
        while position < len(tokens) and not is_sign(tokens[position], "begin"):
            position += 1
        scale = list(tokens[start:position])
        while scale and is_sign(scale[-1], "cdot", "times", "*"):
            scale.pop()
        while scale and is_sign(scale[0], "cdot", "times", "*"):
            scale.pop(0)
        if scale:
            factor = ("mul", factor, parse_expression(scale))
    if product is None:
        raise UnreadableError("a number beside a matrix")
    return product if factor == _ONE else _scaled(product, factor)


def _scaled(rows: Rows, factor: Tree) -> Rows:
    return rows if factor == _ONE else tuple(tuple(("mul", factor, cell) for cell in row) for row in rows)


def _sum(a: Rows, b: Rows) -> Rows:
    if len(a) != len(b) or len(a[0]) != len(b[0]):
        raise UnreadableError("a sum of matrices of different sizes")
    return tuple(tuple(("add", x, y) for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True))


def _product(a: Rows, b: Rows) -> Rows:
    if len(a[0]) != len(b) or len(a) * len(b) * len(b[0]) > MAX_CELLS:
        raise UnreadableError("a product of matrices that do not fit, or are too large")
    return tuple(
        tuple(("add", *(("mul", x, b[k][j]) for k, x in enumerate(row))) for j in range(len(b[0]))) for row in a
    )
