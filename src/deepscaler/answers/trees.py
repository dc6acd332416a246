r"""Expression trees: their form, the names in them, numbers read exactly.

A tree is a tuple of an operation and its arguments:

    ("num", Fraction, digits)          digits: significant digits of a decimal, 0 for a whole number
    ("sym", name)                      a variable with its subscript, or one of the constants π e i ∞ ±
    ("add"|"mul", a, b, …)             ("neg", a)   ("div"|"pow", a, b)
    ("call", name, a, …)               functions, factorial, binomial, floor, abs, roots, sums
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from deepscaler.answers.tokens.lexer import Token, UnreadableError

Tree = tuple[Any, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAX_DIGITS = 4000
MAX_EXPONENT = 5000
FUNCTIONS = _words(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc asin acos atan arcsinh "
    "arccosh arctanh arccoth arcsech arccsch sech csch arsinh arcosh artanh arcoth arsech arcsch asinh acosh atanh "
    "acoth argsinh argcosh argtanh acot asec acsc ln log lg exp sqrt cbrt abs max min gcd lcm Re Im arg sgn det floor "
    "ceil cis conj"
)
FIGURES = _words("angle measuredangle sphericalangle triangle")
GREEK = FIGURES | _words(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega Pi ell hbar nabla partial parallel perp"
)
CONSTANTS = {"pi": "π", "infty": "∞", "infinity": "∞", "inf": "∞", "oo": "∞"}
UNKNOWN_FUNCTIONS = frozenset("fFPQOWT")  # f(x) is one value, not f times x; g(h) may well be a product
OPENING = {"(": ")", "[": "]", "{": "}", "lfloor": "rfloor", "lceil": "rceil", "\\{": "\\}"}
_SPLIT_NAMES = (
    "sqrt",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "pi",
    "ln",
    "log",
    "exp",
)
DIGITS = "overline "  # of a command for a number given by its digits
VERBATIM = frozenset(["ldots", "square"])
INTEGER_LETTERS = frozenset("nmkrNMKpqst")
PLUS_MINUS: Tree = ("sym", "±")
INFINITY: Tree = ("sym", "∞")
ZERO: Tree = ("num", Fraction(0), 0)
TWO: Tree = ("num", Fraction(2), 0)
TEN: Tree = ("num", Fraction(10), 0)


def number(text: str) -> Tree:
    """`12`, `.5`, `1e-5` as an exact fraction. Raises UnreadableError for more digits than are read."""
    if len(text) > MAX_DIGITS:
        raise UnreadableError("too many digits")
    if text.isdecimal():
        return ("num", Fraction(int(text)), 0)
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and (len(exponent) > 6 or abs(int(exponent)) > MAX_EXPONENT):
        raise UnreadableError("an exponent out of range")
    whole, _, places = mantissa.partition(".")
    value = Fraction(int((whole + places) or "0"), 10 ** len(places))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return ("num", value, len((whole + places).lstrip("0")) if places else 0)


def constant(tree: Tree) -> Fraction | None:
    """The value of a bare, perhaps negated number."""
    if tree[0] == "neg":
        inner = constant(tree[1])
        return None if inner is None else -inner
    return tree[1] if tree[0] == "num" else None


def split_letters(tokens: Sequence[Token]) -> list[Token]:
    """Runs of letters as single variables, except names of functions and constants at either end of a run."""
    result: list[Token] = []
    for token in tokens:
        if token.kind == "roman":
            result.append(Token("letters", token.value, token.spaced))
        elif token.kind not in ("letters", "prose") or len(token.value) == 1:
            result.append(token)
        elif token.value in FUNCTIONS or token.value in CONSTANTS:
            result.append(Token("cmd", token.value, token.spaced))
        elif token.kind == "prose":
            result.append(token)
        else:
            result += _split_run(token)
    return result


def _split_run(token: Token) -> list[Token]:
    run, head, tail = token.value, "", ""
    head = next((name for name in _SPLIT_NAMES if run.startswith(name)), "")
    rest = run[len(head) :]
    tail = next((name for name in _SPLIT_NAMES if rest.endswith(name)), "")
    letters = rest[: len(rest) - len(tail)]
    parts = [Token("cmd", head)] if head else []
    parts += [Token("letters", c) for c in letters]
    parts += [Token("cmd", tail)] if tail else []
    parts[0] = Token(parts[0].kind, parts[0].value, token.spaced)
    return parts


def product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else ("mul", *factors)


def is_operand(name: str) -> bool:
    return (
        name in FUNCTIONS
        or name in GREEK
        or name in CONSTANTS
        or is_digits(name)
        or name in ("frac", "binom", "lfloor", "lceil", "sum", "prod")
    )


def is_digits(name: str) -> bool:
    r"""Whether a command is a number given by its digits, `\overline{ab}`."""
    return name.startswith(DIGITS)


def named_figure(name: str, corners: list[str]) -> str:
    """An angle is the same from either end; the corners of a triangle have an order, which congruence needs."""
    if name == "triangle":
        return name + "".join(corners)
    return "angle" + "".join(min(corners, corners[::-1]))


def is_whole(tree: Tree) -> bool:
    return tree[0] == "num" and tree[1].denominator == 1 and tree[2] == 0


def is_proper(tree: Tree) -> bool:
    """A fraction of whole numbers below 1, written as one."""
    return tree[0] == "div" and is_whole(tree[1]) and is_whole(tree[2]) and 0 < tree[1][1] < tree[2][1]


def subscripted(tree: Tree, script: str) -> Tree:
    if tree[0] == "sym":
        return ("sym", tree[1] + script if script.strip("'*+-") == "" else f"{tree[1]}_{script}")
    if tree[0] == "num" and script.strip("'") == "":
        return ("call", f"unknown {script}", tree)  # feet, inches, minutes or seconds, which are no bare numbers
    if tree[:2] == ("call", "unknown '") and script == "'":
        return ("call", "unknown ''", tree[2])
    raise UnreadableError("a subscript below something that is no variable")


def with_bound_scripts(tree: Tree, index: str) -> Tree:
    """The body of a sum with its index in subscripts replaced, so that F_k under one over k is F_j under one over j."""
    if tree[0] == "sym":
        name, _, script = tree[1].partition("_")
        return ("sym", f"{name}_{script.replace(index, '•')}") if script else tree
    return tuple(with_bound_scripts(part, index) if isinstance(part, tuple) else part for part in tree)
