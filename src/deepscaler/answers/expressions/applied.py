"""Whether a letter before brackets is a function of what they hold, or a factor: `g(2x)`, `g(h+r)`."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.answers.tokens.lexer import Token
from deepscaler.answers.trees import UNKNOWN_FUNCTIONS

_ALSO_FUNCTIONS = frozenset(["g", "h", "G", "H", "phi", "Phi", "psi", "Psi", "sigma", "tau", "zeta", "varphi", "Gamma"])
_OF_ONE_VARIABLE = frozenset("uvwyrspqABDIKLMNRSUVXYZ") | {"x", "mu", "omega", "rho", "theta", "Lambda", "Omega"}
_VARIABLES = frozenset("xtnzyks") | {"theta"}
_INDEPENDENT = frozenset("xtn") | {"theta"}


def is_argument(name: str, inside: Sequence[Token]) -> bool:
    """Whether brackets behind `name` hold an argument.

    f always has one. g has one where the brackets speak of x, t, n and their like alone; A only where they hold x, t or
    n and nothing more: `A(x-1)` is a product. Digits alone are an argument of any letter.
    """
    if name in UNKNOWN_FUNCTIONS or (len(inside) == 1 and inside[0].kind == "num"):
        return True
    if name in _ALSO_FUNCTIONS:
        names = [t.value for t in inside if t.kind in ("letters", "roman") or (t.kind == "cmd" and t.value == "theta")]
        return bool(names) and _VARIABLES.issuperset(names)
    return name in _OF_ONE_VARIABLE and len(inside) == 1 and inside[0].value in _INDEPENDENT - {name}
