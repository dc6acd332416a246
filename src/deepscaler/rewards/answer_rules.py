r"""Rules that find the answer in the final part of a completion, besides `\boxed{}` (`extract.py`). Linear time.

    last_number     the last number: 12, -3.5, 1,234, $18, 50%, 3/4, 1.2e-3, \frac{3}{4} (GSM8K, "flexible extract")
    after_####      what follows the last ####, to the end of its line (GSM8K's own solutions)
    the answer is   what follows the last "answer is", to the end of the sentence (Minerva, few-shot chains of thought)
    answer:         what follows the last "Answer:" or "answer =", to the end of the sentence (DAPO, simple-evals)
    <answer>        the content of the last <answer>…</answer> (DeepSeek-R1-Zero)

Each gives the answer as text, which a grader then reads: units, separators of thousands, currencies are its business.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping

MAX_CHARACTERS = 2000  # of a line or tag; an answer is shorter
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w).}\]])[-+\u2212\u2013]\s?)?\\?\$?\s?"
    r"(?:\\[dtc]?frac\s?(?:\{(?P<above>[-+]?\d+)\}\s?\{(?P<below>\d+)\}|(?P<short>\d\s?\d)(?!\d))"
    r"|(?<![\w.])(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<power>[eE][-+]?\d+)?(?P<over>\s?/\s?\d+(?:\.\d+)?)?(?P<percent>\s?\\?%)?)"
)
_HASHES = re.compile(r"(?<!#)####(?!#)")
_PHRASE = re.compile(r"\banswer\s+is\b\s*:?", re.IGNORECASE)
_LABEL = re.compile(r"\banswer\s*(?:\*\*)?\s*[:=]", re.IGNORECASE)
_MATH = re.compile(r"(?:\$\$(?P<a>[^$]+)\$\$|\$(?P<b>[^$]+)\$|\\\((?P<c>.+?)\\\)|\\\[(?P<d>.+?)\\\])\s*[.!*]*\s*")
_SENTENCE_END = re.compile(r"[.!?](?=\s|\*|$)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")


def last_number(text: str) -> str | None:
    found = _last(_NUMBER, text)
    if found is None:
        return None
    sign = "-" if (found["sign"] or "").strip() in ("-", "\u2212", "\u2013") else ""
    if found["number"] is None:
        above, below = (found["above"], found["below"]) if found["above"] else found["short"].replace(" ", "")
        return f"{sign}\\frac{{{above}}}{{{below}}}"
    rest = "".join(found[name] or "" for name in ("power", "over", "percent"))
    return sign + found["number"] + re.sub(r"[\s\\]", "", rest)


def after_hashes(text: str) -> str | None:
    return _behind_last(_HASHES, text, _line)


def the_answer_is(text: str) -> str | None:
    return _behind_last(_PHRASE, text, _sentence)


def answer_label(text: str) -> str | None:
    return _behind_last(_LABEL, text, _sentence)


def answer_tag(text: str) -> str | None:
    start, end = text.rfind("<answer>"), text.rfind("</answer>")
    if not 0 <= start < end:
        return None
    return _bare(text[start + len("<answer>") : end][:MAX_CHARACTERS])


RULES: Mapping[str, Callable[[str], str | None]] = {
    "last_number": last_number,
    "after_####": after_hashes,
    "the answer is": the_answer_is,
    "answer:": answer_label,
    "<answer>": answer_tag,
}
WORDS = {
    "last_number": "no number",
    "after_####": "nothing after ####",
    "the answer is": 'no "the answer is"',
    "answer:": 'no "Answer:"',
    "<answer>": "no <answer>…</answer>",
}


def _behind_last(mark: re.Pattern[str], text: str, take: Callable[[str], str]) -> str | None:
    """What `take` makes of the first line with content behind the last mark; None without a mark or content."""
    last = _last(mark, text)
    if last is None:
        return None
    behind = text[last.end() : last.end() + MAX_CHARACTERS].lstrip(" \t\r\n*_:")
    if display := re.match(r"(?:\$\$|\\\[)(.+?)(?:\$\$|\\\])", behind, re.DOTALL):  # a formula of several lines
        return _bare(display[1])
    return _bare(take(behind.partition("\n")[0]))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _line(text: str) -> str:
    return text


def _sentence(text: str) -> str:
    """Up to a full stop that is followed by space; a formula that is the whole sentence alone."""
    if (formula := _MATH.match(text)) and (formula.end() == len(text) or formula[0].rstrip(" *")[-1] in ".!"):
        return next(group for group in formula.groups() if group)
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def _bare(text: str) -> str | None:
    """Without emphasis, delimiters of formulas, a box, and punctuation at the end; None where nothing is left."""
    boxes = _BOX.findall(text)
    text = boxes[-1] if boxes else text
    before = ""
    while text != before:
        before, text = text, text.strip(" \t\r\n*_`").rstrip(".,;:!")
        for left, right in (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
                inner = text[len(left) : -len(right)]
                text = inner if left not in inner else text
    return text or None
