r"""Products whose order matters: `\vec u\times\vec v` is not `\vec v\times\vec u`, `A^{-1}B` is not `BA^{-1}`."""

from __future__ import annotations

import re

_VECTOR = r"\\(?:vec|mathbf|overrightarrow|boldsymbol|bm|hat)\s*(?:\{\s*(\w+)\s*\}|(\w))"
_CROSSED = re.compile(rf"{_VECTOR}\s*\\times\s*{_VECTOR}")
_MATRICES = re.compile(r"(?:[A-Z()](?:\^(?:\{-1\}|\{?(?:T|\\top)\}?))?)+")
_OF_PRODUCT = re.compile(r"\(([A-Z])([A-Z])\)\^(-1|T)")  # the inverse of AB
_INVERTED = re.compile(r"\^(?:-1|T)")
_SPACE = re.compile(r"\s+|\\[,;:!]|\\(?:cdot|times)(?![a-zA-Z])")


def contrary_products(left: str, right: str) -> str:
    """The products of both texts where they are not the same; "" for none."""
    crossed, others = _crossed(left), _crossed(right)
    if crossed != others and _has_vectors(left) and _has_vectors(right):
        return f"{crossed or 'no cross product'}/{others or 'no cross product'}"
    if "^" not in left + right:
        return ""
    first, second = _matrices(left), _matrices(right)
    several = max(sum(map(str.isupper, text)) for text in (first, second)) > 1
    if not (first and second and several) or not (_INVERTED.search(first) or _INVERTED.search(second)):
        return ""
    return f"{first}/{second}" if first != second else ""


def _crossed(text: str) -> list[str]:
    if "\\times" not in text:
        return []
    return sorted("×".join(filter(None, match.groups())) for match in _CROSSED.finditer(text))


def _has_vectors(text: str) -> bool:
    return re.search(_VECTOR, text) is not None


def _matrices(text: str) -> str:
    """A product of capital letters, perhaps inverted or transposed, in one spelling; "" for any other text."""
    plain = _SPACE.sub("", text)
    if _MATRICES.fullmatch(plain) is None:
        return ""
    plain = plain.replace("{", "").replace("}", "").replace("\\top", "T")
    return _OF_PRODUCT.sub(r"\2^\3\1^\3", plain)
