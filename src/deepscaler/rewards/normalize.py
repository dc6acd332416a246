r"""Light normalisation of an answer's text: what typesetting adds and mathematics does not mean."""

from __future__ import annotations

import re

_SPACING = re.compile(r"\\(?:left|right|displaystyle|textstyle|quad|qquad|[;:>!])(?![a-zA-Z])|\\ |~|\$")
_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\s*\{([^{}\\]*)\}")
# A space between two digits stays: `1 2` is not 12.
_NEEDLESS_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_UNICODE = str.maketrans({"−": "-", "–": "-", "，": ",", "：": ":", "（": "(", "）": ")", "×": "\\times "})


def normalize_answer(text: str) -> str:
    """Without needless spaces, math delimiters, sizing commands, text wrappers and closing full stop; case is kept."""
    text = text.translate(_UNICODE)
    text = text.replace("\\(", "").replace("\\)", "").replace("\\[", "").replace("\\]", "")
    text = _SPACING.sub("", text)
    text = _WRAPPERS.sub(r"\1", text)
    text = _NEEDLESS_SPACE.sub("", " ".join(text.split()))
    return text[:-1] if text.endswith(".") else text
