"""Problems whose text alone cannot be answered, or is more than text to a model: images, choices kept apart, tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deepscaler.data.sources.layouts import Fields, shown

_IMAGE = re.compile(
    r"<image(?:[_ ]?\d+)?\s*/?>|<img\b|!\[[^\]]{0,200}\]\(|!\[\[[^\]]{0,200}\]\]|\\includegraphics\b|\[(?:image|img)\]"
    r"|<\|(?:image(?:_pad|_\d+)?|vision_start)\|>",
    re.IGNORECASE,
)
# What chat templates and vocabularies of the known model families write for the turns and thoughts of a conversation.
_CONTROL = re.compile(
    r"<\|[a-z_]{4,40}\|>|<\|(?:eot|eom|end|eos|bos|pad)\w*\|>|<｜[^｜<>]{2,40}｜>|</s>|(?:^|\s)<s>(?=\s*\S)"
    r"|</?think>|<(?:bos|eos|pad|unk|mask)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<\|?endoftext\|?>",
)


def question_fault(fields: Fields, problem: str) -> tuple[str, str] | None:
    """(reason, particulars in words) why a problem cannot be asked as text, None where it can."""
    if found := _IMAGE.search(problem):
        return "needs_image", f"the problem refers to an image, {shown(found[0])}"
    if fields.has_image:
        return "needs_image", "the row has an image beside the problem"
    if choices := choices_apart(problem, fields.choices, fields.answer):
        return "choices_apart", f"the answer {shown(fields.answer)} chooses among {shown(choices)}, not in the problem"
    if found := _CONTROL.search(problem):
        return "control_tokens", f"holds the text of a control token, {shown(found[0].strip())}"
    return None


def choices_apart(problem: str, choices: object, answer: object) -> list[str]:
    """The choices that are in a column of their own, where the answer is the name or number of one; else nothing.

    Where the problem's text holds them all, or the answer is one's content, the row can be asked as it is.
    """
    listed = _listed(choices)
    if len(listed) < 2 or all(choice.strip() in problem for choice in listed):
        return []
    label = str(answer[0] if isinstance(answer, list) and answer else answer).strip().strip("().").upper()
    names = [chr(ord("A") + index) for index in range(len(listed))]
    numbers = [str(index) for index in range(len(listed) + 1)]
    return listed if label in (*names, *numbers) else []


def _listed(choices: object) -> list[str]:
    """The choices of a column: a list, `{"A": ...}`, or the hub's `{"label": [...], "text": [...]}`."""
    if isinstance(choices, Mapping):
        texts = choices.get("text")
        choices = texts if isinstance(texts, Sequence) and not isinstance(texts, str) else list(choices.values())
    if isinstance(choices, str):
        choices = [part for part in re.split(r"\n|;", choices) if part.strip()]
    return [str(choice) for choice in choices] if isinstance(choices, Sequence) else []
