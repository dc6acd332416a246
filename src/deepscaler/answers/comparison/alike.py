"""Whether two answers of given kinds are the same, where no part of theirs needs a comparison of its own."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.comparison.intervals import as_relation, same_spans, spans_of
from deepscaler.answers.comparison.vectors import same_vector
from deepscaler.answers.kinds import (
    Answer,
    Based,
    Choice,
    Clock,
    Items,
    Matrix,
    Prose,
    Reals,
    Record,
    Relation,
    Residue,
    Scalar,
)
from deepscaler.answers.tokens.lexer import UnreadableError
from deepscaler.answers.trees import ZERO, Tree
from deepscaler.answers.values.budget import TooBigError, UndefinedError
from deepscaler.answers.values.exact import exact_value
from deepscaler.answers.values.lines import linear
from deepscaler.answers.values.quotients import has_variable_denominator, numerator
from deepscaler.answers.values.same_value import proportional, real_value, same_value, symbols

MAX_DIGITS_BITS = 3000
CHOICE_LETTERS = "ABCDEFGHIJ"


def digits(value: Fraction) -> str:
    return str(value) if value.numerator.bit_length() < MAX_DIGITS_BITS else ""


def is_tuple(answer: Answer) -> bool:
    return isinstance(answer, Record) or (isinstance(answer, Items) and answer.kind == "tuple")


def as_spans(items: Items, reals: Reals) -> bool:
    """An interval as a pair; a list or set of numbers as a union of points."""
    if items.kind == "list" and any(span.low != span.high for span in reals.spans):
        return False
    try:
        return same_spans(spans_of(Items("set", items.items) if items.kind == "list" else items), reals.spans)
    except UnreadableError:
        return False


def are_letters(items: Items, run: Prose) -> bool:
    """`ABD` for the choices A, B, D."""
    letters = [item.letter for item in items.items if isinstance(item, Choice)]
    letters = letters or [item.tree[1] for item in items.items if isinstance(item, Scalar) and item.tree[0] == "sym"]
    run_of_letters = "".join(letters).casefold() == run.words and items.kind in ("list", "set")
    return run_of_letters and 2 < len(letters) == len(items.items) and all(x in CHOICE_LETTERS for x in letters)


def same_ratio(a: Items, b: Items) -> bool:
    """`3:4` and `6:8`: each entry of one times the same number is that of the other."""
    pairs = [(x, y) for x, y in zip(a.items, b.items, strict=False) if isinstance(x, Scalar) and isinstance(y, Scalar)]
    if len(a.items) != len(b.items) or len(pairs) < len(a.items):
        return False
    first, second = pairs[0][0].tree, pairs[0][1].tree
    if any(same_value(x.tree, ZERO) or same_value(y.tree, ZERO) for x, y in pairs):
        return all(same_value(x.tree, y.tree) for x, y in pairs)
    return all(same_value(("mul", first, y.tree), ("mul", second, x.tree)) for x, y in pairs)


def same_letter(a: Tree, b: Tree) -> bool:
    """`b` for the choice `B`."""
    return a[0] == b[0] == "sym" and a[1].upper() == b[1].upper() and a[1].upper() in "ABCDE"


def same_relation(a: Relation, b: Relation) -> bool:
    if a.op != b.op:
        return False
    if same_value(a.left, b.left) and same_value(a.right, b.right):
        return True
    if a.op in ("=", "!=", "ne") and same_value(a.left, b.right) and same_value(a.right, b.left):
        return True
    first, second = ("add", a.left, ("neg", a.right)), ("add", b.left, ("neg", b.right))
    sign = proportional(first, second)
    if sign == 0 and a.op == "=" and (has_variable_denominator(first) or has_variable_denominator(second)):
        try:
            sign = proportional(numerator(first), numerator(second))
        except TooBigError:
            return False
    return sign > 0 or (sign < 0 and a.op in ("=", "!="))


def same_matrix(a: Matrix, b: Matrix) -> bool:
    if len(a.rows) != len(b.rows) or len(a.rows[0]) != len(b.rows[0]):
        return False
    return all(same_value(x, y) for r, s in zip(a.rows, b.rows, strict=True) for x, y in zip(r, s, strict=True))


def same_residue(a: Residue, b: Answer) -> bool:
    if isinstance(b, Scalar):
        return same_value(a.value, b.tree) or is_class_of(a, b.tree)
    if not isinstance(b, Residue) or not same_value(a.modulus, b.modulus):
        return False
    try:
        values = exact_value(a.value), exact_value(b.value), exact_value(a.modulus)
    except (UndefinedError, TooBigError):
        return False
    x, y, modulus = values
    return x is not None and y is not None and bool(modulus) and (x - y) % modulus == 0


def is_class_of(residue: Residue, tree: Tree) -> bool:
    """`7k+3` for 3 modulo 7."""
    names = symbols(tree)
    line = linear(tree, next(iter(names))) if len(names) == 1 else None
    modulus, value = real_value(residue.modulus), real_value(residue.value)
    if line is None or not isinstance(modulus, Fraction) or not isinstance(value, Fraction) or modulus == 0:
        return False
    return abs(line[0]) == abs(modulus) and (line[1] - value) % modulus == 0


def are_strings(a: str, b: str) -> bool:
    """Runs of three letters or more, such as permutations: `abc` is not `bca`, though products commute."""
    return a.isalpha() and b.isalpha() and min(len(a), len(b)) > 2


def same_prose(a: Prose, b: Answer) -> bool:
    other = b.product if isinstance(b, Prose) else b.tree if isinstance(b, Scalar) else None
    if isinstance(b, Prose) and (a.words == b.words or are_strings(a.words, b.words)):
        return a.words == b.words
    return a.product is not None and other is not None and same_value(a.product, other)


def same_others(a: Answer, b: Answer) -> bool:
    if isinstance(a, Reals):
        if isinstance(b, Relation):
            line = as_relation(a)
            return line is not None and same_relation(line, b)
        agree = isinstance(b, Reals) and (a.name == b.name or not a.name or not b.name)
        return agree and isinstance(b, Reals) and same_spans(a.spans, b.spans)
    if isinstance(a, Relation):
        if isinstance(b, Relation):
            return same_relation(a, b)
        zero = a.op == "=" and a.right[0] == "num" and a.right[1] == 0
        return zero and isinstance(b, Scalar) and same_value(a.left, b.tree)
    if isinstance(a, Matrix):
        return same_matrix(a, b) if isinstance(b, Matrix) else same_vector(a, b)
    if isinstance(a, Residue):
        return same_residue(a, b)
    if isinstance(a, Based):
        bare = isinstance(b, Scalar) and b.unit is None and not b.percent and not b.degree
        return (
            bare and isinstance(b, Scalar) and b.tree[0] == "num" and b.tree[2] == 0 and digits(b.tree[1]) == a.digits
        )
    if isinstance(a, Prose):
        return same_prose(a, b)
    return False


def same_time(a: Clock, b: Clock) -> bool:
    """Hours on the twelve-hour clock are those of the day where the other one says which half, or counts to 24."""
    if (a.minute, a.second) != (b.minute, b.second):
        return False
    if a.half == b.half:
        return a.hour == b.hour
    if a.half and b.half:
        return False
    halved, bare = (a, b) if a.half else (b, a)
    return bare.hour == halved.hour or bare.hour == halved.hour % 12 + 12 * (halved.half == "pm")
