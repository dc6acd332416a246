"""Multiple choice: a question with its choices under letters."""

from __future__ import annotations

import string
from collections.abc import Sequence

from deepscaler.data.sources.readers import DataError
from deepscaler.randomness import generator

CHOICE_ORDER = "drawn by row content"
"""How the order of choices came about, for the record; a change of `lettered`'s draw needs another word."""


def lettered(question: str, right: str, wrong: Sequence[str]) -> tuple[str, str]:
    """(the question with all choices below it, the letter of the right one).

    The order is drawn from the content of the row: the same in every evaluation and in every subset of the rows.
    """
    choices = [right, *wrong]
    order = generator("choices", question, *choices).permutation(len(choices)).tolist()
    return listed(question, [choices[i] for i in order]), string.ascii_uppercase[order.index(0)]


def listed(question: str, choices: Sequence[str]) -> str:
    """The question, an empty line, and a line `A) ...` for every choice in order. Raises DataError for above 26."""
    if len(choices) > len(string.ascii_uppercase):
        raise DataError(f"{len(choices)} choices; there are letters for {len(string.ascii_uppercase)}")
    lines = [f"{letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    return "\n".join([question.strip(), "", *lines])
