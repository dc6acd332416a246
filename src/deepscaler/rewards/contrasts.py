"""Words that turn an answer into another one: 6 a.m. is not 6 p.m., 3 north is not 3 south.

Units and counted things may be dropped, so numbers behind different words can be equal. Words that exclude each other
must not be among them.
"""

from __future__ import annotations

import re

_PAIRS = (
    ("am", "pm"),
    ("north", "south"),
    ("east", "west"),
    ("left", "right"),
    ("up", "down"),
    ("above", "below"),
    ("clockwise", "counterclockwise"),
    ("clockwise", "anticlockwise"),
    ("celsius", "fahrenheit"),
    ("positive", "negative"),
    ("profit", "loss"),
    ("gain", "loss"),
    ("increase", "decrease"),
    ("more", "less"),
    ("more", "fewer"),
    ("before", "after"),
    ("faster", "slower"),
    ("odd", "even"),
)
_COMMAND = re.compile(r"\\(?:left|right|pm|[a-zA-Z]+(?=\s*\{))")
_WORD = re.compile(r"[a-z]{2,}")


def contrary_words(left: str, right: str) -> str:
    """The pair of which one text holds the one word only and the other the other, as `am/pm`; "" for none."""
    words, others = _words(left), _words(right)
    for pair in _PAIRS:
        a, b = (words & set(pair), others & set(pair))
        if len(a) == 1 and len(b) == 1 and a != b:
            return "/".join(pair)
    return ""


def _words(text: str) -> set[str]:
    # `p.m.` is one word; commands such as \left and \pm are none.
    return set(_WORD.findall(_COMMAND.sub(" ", text).lower().replace("a.m", " am ").replace("p.m", " pm ")))
