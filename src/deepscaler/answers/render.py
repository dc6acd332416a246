"""Renders parsed answers and trees in short form, for people who ask how a verdict came about."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.kinds import (
    Answer,
    Approximated,
    Based,
    Choice,
    Clock,
    Conditioned,
    Items,
    Matrix,
    Named,
    Prose,
    Reals,
    Record,
    Relation,
    Residue,
    Scalar,
    Span,
)
from deepscaler.answers.trees import Tree

MAX_CHARACTERS = 400
MAX_BITS = 300
_INFIX = {"add": " + ", "mul": "·", "div": " / ", "pow": "^"}
_BRACKETS = {"list": ("list ", ""), "set": ("{", "}"), "tuple": ("(", ")"), "ratio": ("ratio ", "")}


def render(answer: Answer) -> str:
    """The answer on one line of at most MAX_CHARACTERS."""
    text = _answer(answer)
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"


def _answer(answer: Answer) -> str:
    if isinstance(answer, Scalar):
        return _scalar(answer)
    if isinstance(answer, Items):
        first, last = _BRACKETS[answer.kind]
        return first + ", ".join(map(_answer, answer.items)) + last
    if isinstance(answer, Reals):
        return (f"{answer.name} in " if answer.name else "") + (" ∪ ".join(map(_span, answer.spans)) or "nothing")
    if isinstance(answer, Named):
        return f"{answer.name} := {_answer(answer.value)}"
    if isinstance(answer, Record):
        return ", ".join(f"{n} := {_answer(v)}" for n, v in zip(answer.names, answer.values, strict=True))
    if isinstance(answer, Clock):
        return f"{answer.hour}:{answer.minute:02}:{answer.second:02} {answer.half}".rstrip()
    if isinstance(answer, Conditioned):
        return " where ".join(map(_answer, (answer.value, *answer.ranges)))
    if isinstance(answer, Approximated):
        return f"{_answer(answer.value)}, rounded to {_answer(answer.rounded)}"
    return _other(answer)


def _other(answer: Relation | Matrix | Based | Residue | Choice | Prose) -> str:
    if isinstance(answer, Relation):
        return f"{tree_text(answer.left)} {answer.op} {tree_text(answer.right)}"
    if isinstance(answer, Matrix):
        return "matrix [" + "; ".join(", ".join(map(tree_text, row)) for row in answer.rows) + "]"
    if isinstance(answer, Based):
        return f"digits {answer.digits} in base {answer.base}"
    if isinstance(answer, Residue):
        return f"{tree_text(answer.value)} mod {tree_text(answer.modulus)}"
    if isinstance(answer, Choice):
        return f"choice {answer.letter}" + (f" with {_answer(answer.value)}" if answer.value is not None else "")
    return f'words "{answer.words}"'


def _scalar(answer: Scalar) -> str:
    marks = ["percent"] * answer.percent + ["degrees"] * answer.degree
    if answer.unit is not None:
        marks.append("·".join(name if n == 1 else f"{name}^{n}" for name, n in answer.unit.dimensions))
    return tree_text(answer.tree) + (f" [{', '.join(marks)}]" if marks else "")


def _span(span: Span) -> str:
    low, high = "[" if span.low_closed else "(", "]" if span.high_closed else ")"
    return f"{low}{tree_text(span.low)}, {tree_text(span.high)}{high}"


def tree_text(tree: Tree) -> str:
    """An expression with every bracket."""
    kind = tree[0]
    if kind == "num":
        return _number(tree[1])
    if kind == "sym":
        return tree[1]
    if kind == "neg":
        return f"-{tree_text(tree[1])}"
    if kind == "call":
        return f"{tree[1].removeprefix('unknown ')}({', '.join(map(tree_text, tree[2:]))})"
    return "(" + _INFIX[kind].join(map(tree_text, tree[1:])) + ")"


def _number(value: Fraction) -> str:
    """Long numbers by their size: turning them into decimal digits takes quadratic time."""
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return str(value) if bits <= MAX_BITS else f"a number of {bits} bits"
