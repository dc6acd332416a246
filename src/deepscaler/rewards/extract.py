r"""Extracts the answer of a completion: the last `\boxed{...}` after the thinking part, or what other rules find there.

Linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepscaler.rewards.answer_rules import RULES, WORDS

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
# Space between `\boxed` and its brace is legal TeX, and so is no brace around one word.
_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s{0,8}\{|\s{1,8}([+-]?[0-9A-Za-z][0-9A-Za-z.,/]*)|(\d))")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_JOINT = r",|\\(?:text|mathrm|textbf)\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|\b(?:and|or)\b"
_JOINED = re.compile(rf"(?:[\s$]|\\(?:[,;!()]|q?quad(?![a-zA-Z]))|{_JOINT})*")
_HAS_JOINT = re.compile(_JOINT)


class Extraction(NamedTuple):
    """`answer` is None when there is none; `why` then says so in words."""

    answer: str | None
    why: str = ""


def final_part(completion: str, *, thinking_prefilled: bool) -> Extraction:
    """The text after the last `</think>`, the part that is meant for the reader.

    A completion that never leaves its thoughts has no final part. `thinking_prefilled`: the template opened `<think>`.
    """
    _, found, final = completion.rpartition(CLOSE_THINK)
    if not found:
        if thinking_prefilled or OPEN_THINK in completion:
            return Extraction(None, "the thinking part never ends")
        return Extraction(completion)
    if OPEN_THINK in final:
        return Extraction(None, "a second thinking part never ends")
    return Extraction(final)


def extract_answer(completion: str, *, thinking_prefilled: bool, rules: Sequence[str] = ("boxed",)) -> Extraction:
    """The answer in the final part, by the first of `rules` that finds one (`grader.answer`)."""
    final = final_part(completion, thinking_prefilled=thinking_prefilled)
    if final.answer is None:
        return final
    why = []
    for rule in rules:
        found = boxed(final.answer) if rule == "boxed" else _by_rule(rule, final.answer)
        if found.answer is not None:
            return found
        why.append(found.why)
    return Extraction(None, "; ".join(why))


def _by_rule(rule: str, text: str) -> Extraction:
    answer = RULES[rule](text)
    return Extraction(answer, "" if answer is not None else f"{WORDS[rule]} after the thinking part")


def boxed(text: str) -> Extraction:
    r"""The content of the last outermost, balanced `\boxed{}` of a text.

    An unterminated last box or an empty one is no answer; an earlier box is not used instead. Boxes that are only
    joined by commas, "and" or "or" form one list: `\boxed{1} and \boxed{2}` reads `1,2`.
    """
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    for start, end, content in _outer_boxes(text):
        if end < 0:
            return Extraction(None, "the last \\boxed{ is never closed")
        boxes.append((start, end, content))
    if not boxes:
        return Extraction(None, "no \\boxed{} after the thinking part")
    chosen = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : chosen[-1][0]]
        if not (_HAS_JOINT.search(between) and _JOINED.fullmatch(between)):
            break
        chosen.append(box)
    contents = [content.strip() for _, _, content in reversed(chosen)]
    if not all(contents):
        return Extraction(None, "the box is empty")
    return Extraction(",".join(contents))


def _outer_boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of every outermost box; end is -1 for one that is never closed."""
    position = 0
    while (match := _BOX.search(text, position)) is not None:
        if not match.group().endswith("{"):
            yield match.start(), match.end(), (match[1] or match[2]).rstrip(".,")
            position = match.end()
            continue
        end = _closing_brace(text, match.end())
        if end < 0:
            yield match.start(), -1, ""
            return
        yield match.start(), end + 1, text[match.end() : end]
        position = end + 1


def _closing_brace(text: str, start: int) -> int:
    r"""Index of the brace that closes the one before `start`, or -1. An escaped brace `\{` does not count."""
    depth = 1
    for match in _BRACES.finditer(text, start):
        token = match.group()
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth == 0:
            return match.start()
    return -1
