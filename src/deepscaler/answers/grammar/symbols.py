r"""Statements about letters alone, in an order that does not matter: `A\cap B`, `a=b=c`."""

from __future__ import annotations

from deepscaler.answers.kinds import Prose
from deepscaler.answers.tokens.brackets import Tokens, closing, is_sign, split, top_level

MAX_NAMES = 12
_MARKS = frozenset(["'", "^", "_", "{", "}", "c", "C", "complement"])


def read_named_sets(tokens: Tokens) -> Prose | None:
    """Unions and intersections of sets that have names only, with their parts in order; else None."""
    if len(tokens) < 3 or not any(is_sign(t, "cup", "cap") for t in tokens):
        return None
    name = _set_name(tokens)
    return None if name is None else Prose(name)


def _set_name(tokens: Tokens) -> str | None:
    for sign in ("cup", "cap"):
        parts = split(tokens, lambda t, sign=sign: is_sign(t, sign))
        if len(parts) > 1:
            names = [_set_name(part) for part in parts[:MAX_NAMES]]
            known = sorted(name for name in names if name is not None)
            return f"({f' {sign} '.join(known)})" if len(known) == len(parts) else None
    if tokens and is_sign(tokens[0], "(") and closing(tokens, 0) == len(tokens) - 1:
        return _set_name(tokens[1:-1])
    if not tokens or tokens[0].kind not in ("letters", "roman") or len(tokens[0].value) > 1:
        return None
    if not tokens[0].value.isupper() or any(t.value not in _MARKS and t.kind != "num" for t in tokens[1:]):
        return None
    return "".join(t.value for t in tokens if t.value not in ("{", "}"))


def read_chain_of_names(tokens: Tokens) -> Prose | None:
    """`a = b = c`: single letters that are all equal, whichever is named first; else None."""
    equal = [t for _, t in top_level(tokens) if is_sign(t, "=")]
    parts = split(tokens, lambda t: is_sign(t, "="))
    if not 1 < len(equal) <= MAX_NAMES or not all(len(p) == 1 and p[0].kind == "letters" for p in parts):
        return None
    names = sorted(part[0].value for part in parts)
    return Prose(" = ".join(names)) if all(len(name) == 1 for name in names) else None
