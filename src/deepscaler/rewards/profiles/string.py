r"""The `string` profile: exact match of lightly normalised text, as JustRL and DAPO train with (arXiv:2512.16649,
arXiv:2503.14476). Whoever compares with these recipes grades like them; `1/2` and `0.5` are different here.

Normalised away is what typesetting adds: spaces, math delimiters, sizing, text wrappers, other spellings of `\frac`,
separators of thousands, a closing full stop, case. DAPO's script also drops everything up to the last `=` and a list of
unit words at any position, by which `2x+z=1` equals `1`; that is not copied.
"""

from __future__ import annotations

import re

from deepscaler.rewards.extract import extract_answer
from deepscaler.types import GradeItem, Outcome, Verdict

GRADER_VERSION = "1"  # goes up whenever a verdict may change
SHOWN_CHARACTERS = 200
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|quad|qquad|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])"  # sizing
    r"|\\[()\[\];:>!, ]|[$~]|\{,\}|\s+"  # delimiters, space, the comma that TeX does not space
)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # of a whole answer: (1,234) is a pair
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}\\]*)\}")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)(?!\d)")


def grade(item: GradeItem) -> Verdict:
    """The verdict by equality of text. The item's tolerance says nothing about text and is not used."""
    usable = [text for text in map(normalized, item.references) if text]
    if not usable:
        return Verdict(Outcome.BAD_REFERENCE, 0.0, detail="no reference answer, or only empty ones")
    extraction = extract_answer(item.completion, thinking_prefilled=item.thinking_prefilled, rules=item.answer_rules)
    if extraction.answer is None:
        return Verdict(Outcome.NO_ANSWER, 0.0, detail=extraction.why)
    shown = extraction.answer[:SHOWN_CHARACTERS]
    if normalized(extraction.answer) in usable:
        return Verdict(Outcome.CORRECT, 1.0, shown, "same text")
    return Verdict(Outcome.WRONG, 0.0, shown, f"differs as text: {usable[0][:SHOWN_CHARACTERS]}")


def explain(answer: str, reference: str, tolerance: float | None) -> list[str]:
    """Both texts as they are compared."""
    return [f"answer: {normalized(answer)}", f"reference: {normalized(reference)}"]


def normalized(text: str) -> str:
    """`text` in the one spelling that is compared. Linear time; never fails."""
    text = _DROPPED.sub("", _FRACTION.sub(r"\\frac", text))
    text = _WRAPPER.sub(r"\1", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text).removesuffix(".")
    return (text.replace(",", "") if _THOUSANDS.fullmatch(text) else text).casefold()
