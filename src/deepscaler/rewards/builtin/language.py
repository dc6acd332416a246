"""The share of letters that are of one script, formulas left out; None for a text without letters.

The language consistency reward of DeepSeek-R1, arXiv:2501.12948 §2.3.2, which counts words of the target language.
"""

from __future__ import annotations

import re
import unicodedata

# How Unicode's names of their letters begin.
SCRIPTS = {
    "arabic": ("ARABIC",),
    "cyrillic": ("CYRILLIC",),
    "devanagari": ("DEVANAGARI",),
    "greek": ("GREEK",),
    "han": ("CJK",),
    "hangul": ("HANGUL",),
    "hebrew": ("HEBREW",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA"),
    "latin": ("LATIN",),
    "thai": ("THAI",),
}
PARTS = ("completion", "thinking", "response")
_FORMULA = re.compile(r"\$\$[^$]*\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+|</?[a-z]+>", re.DOTALL)


def reward(
    completion: str, thinking: str, response: str | None, *, script: str = "latin", part: str = "completion"
) -> float | None:
    """part: of the completion that is read."""
    text = {"completion": completion, "thinking": thinking, "response": response or ""}[part]
    letters = [c for c in _FORMULA.sub(" ", text) if c.isalpha()]
    if not letters:
        return None
    known: dict[str, bool] = {}
    for letter in letters:
        if letter not in known:
            known[letter] = unicodedata.name(letter, "").startswith(SCRIPTS[script])
    return sum(known[letter] for letter in letters) / len(letters)


def check(*, script: str = "latin", part: str = "completion") -> None:
    if script not in SCRIPTS:
        raise ValueError(f"script = {script!r}: expected one of {', '.join(SCRIPTS)}")
    if part not in PARTS:
        raise ValueError(f"part = {part!r}: expected one of {', '.join(PARTS)}")
