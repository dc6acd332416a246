r"""The answer inside an answer's field: a bare answer, or a worked solution that ends in one.

    70                                       70
    $\boxed{2}$                              2
    Half of 48 is 24.\n#### 72               72        (GSM8K)
    ... so $x = \boxed{8}$ or $\boxed{-6}$.  8,-6      (MATH, TRL's `solution`)

A worked solution that marks no answer has none: which of its numbers is meant cannot be known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal

from deepscaler.data.sources.broken_text import fault_of, repair_latex
from deepscaler.data.sources.layouts import shown
from deepscaler.json_text import parse_json


class WrongTypeError(ValueError):
    """A value that can be no answer."""


class NoAnswerError(ValueError):
    """A text that is no answer and marks none."""


def read_answers(value: object) -> tuple[str, ...]:
    """The alternatives an answer's field holds, as the grader is given them, without empty ones.

    A whole number is written without its fraction (142.0 becomes "142"), any other without an exponent. A JSON list of
    texts (`["34"]`) is read as one. A broken text (`broken_text.fault_of`) comes back as it is. Raises WrongTypeError
    and NoAnswerError.
    """
    answers = []
    for item in _items(value):
        if isinstance(item, bool) or not isinstance(item, str | int | float | Decimal):
            raise WrongTypeError(f"expected text, a number or a list of them, found {shown(item)}")
        answers.append(_read_text(item) if isinstance(item, str) else _written(item))
    return tuple(answer for answer in answers if answer)


def _read_text(text: str) -> str:
    """A broken text as it is: its first character may be what is broken, so it is not stripped."""
    text = repair_latex(text, is_formula=True)
    return text if fault_of(text) else read_reference(text)


def _items(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, str) and re.match(r'\s*\[\s*"', value):
        try:
            items = parse_json(value)
        except ValueError:
            return [value]
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    return [value]


def _written(number: float | Decimal) -> str:
    """A number in digits: a float by its shortest decimal, never with an exponent."""
    if isinstance(number, int):
        return str(number)
    if not math.isfinite(number):
        raise WrongTypeError(f"expected a finite number, found {number}")
    exact = number if isinstance(number, Decimal) else Decimal(repr(number))
    if exact == exact.to_integral_value():
        return str(int(exact))
    return f"{exact:f}".rstrip("0")


_MARK = "####"


def read_reference(text: str) -> str:
    r"""The answer that a text gives: what follows `####`, the last box, or the text itself where it is short.

    Raises NoAnswerError for several sentences without either, and for a mark that nothing follows.
    """
    text = text.strip()
    _, marked, tail = text.rpartition(_MARK)
    if marked and "\\boxed" not in tail:
        answer = tail.strip().partition("\n")[0].strip()
        if answer and num_sentences(answer) < 2:
            return answer
        if "\\boxed" not in text:
            raise NoAnswerError(f"no answer follows {_MARK} in {shown(text)}")
    if "\\boxed" in text:
        return _last_box(text)
    if num_sentences(text) > 1:
        raise NoAnswerError(
            f"several sentences that mark no answer with \\boxed{{}} or {_MARK}: {shown(text)}; put the answer alone "
            "there, or mark it"
        )
    return text


MAX_READ_CHARACTERS = 20_000  # of a text, to tell whether it is prose
_WORD = re.compile(r"[^\W\d_]{2,}")
_IDEOGRAPHS = re.compile(r"[぀-ヿ一-鿿가-힯]")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_BREAK = re.compile(r"(?<=[.!?])\s+|[。！？\n]+")


def num_sentences(text: str) -> int:
    """How many sentences or lines of prose a text has: each of three words or numbers, two of them words, and more.

    A formula counts as a word, and so do two characters of a script without spaces.
    """
    plain = _COMMAND.sub(" ", _FORMULA.sub(" formula ", text[:MAX_READ_CHARACTERS]))
    return sum(map(_is_prose, _BREAK.split(plain)))


def _is_prose(text: str) -> bool:
    ideographs = len(_IDEOGRAPHS.findall(text))
    words = len(_WORD.findall(_IDEOGRAPHS.sub(" ", text))) + ideographs // 2
    return words >= 2 and words + len(re.findall(r"\d+", text)) >= 3


# As the grader finds a completion's answer (rewards/extract.py), which this layer does not import.
_BOX = re.compile(r"\\boxed(?:\s*\{|\s+([+-]?[0-9A-Za-z][0-9A-Za-z.,/]*)|(\d))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_JOINED = re.compile(r"(?:[\s$,]|\\(?:[,;!()]|q?quad)|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b)*")


def _last_box(text: str) -> str:
    r"""The content of the last `\boxed{}`; of several that only commas, "and" or "or" join, all of them."""
    boxes = list(_boxes(text))
    chosen = boxes[-1:]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : chosen[0][0]]
        if not between.strip("$ \n\t") or not _JOINED.fullmatch(between):
            break
        chosen.insert(0, box)
    contents = [content.strip() for _, _, content in chosen]
    if not contents or not all(contents):
        raise NoAnswerError(f"the last \\boxed{{}} holds nothing or is never closed in {shown(text)}")
    return ",".join(contents)


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of each box outside of other boxes; one that is never closed has no content."""
    position = 0
    while (box := _BOX.search(text, position)) is not None:
        if not box[0].endswith("{"):
            position = box.end()
            yield box.start(), position, (box[1] or box[2]).rstrip(".,")
            continue
        end = _closing_brace(text, box.end())
        if end < 0:
            yield box.start(), len(text), ""
            return
        yield box.start(), end + 1, text[box.end() : end]
        position = end + 1


def _closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one before `start`, -1 when none does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return -1


_SAYS = re.compile(r"\b(?:is|are|was|equals?|answer|therefore|thus|hence|so|gives?)\b|[.。]\s*$|答案", re.IGNORECASE)
_NUMBER = re.compile(r"(?<!\S)\$?([-+]?\d+(?:,\d{3})*(?:\.\d+)?)(?=[\s.,;!?]|$)")


def value_in(reference: str) -> str:
    """What a person would box for a reference that is a sentence around one value; any other reference as it is.

    `The answer is $\\frac12$.` has the value `\\frac12`, `She has 5 apples.` the value `5`.
    """
    formulas = list(re.finditer(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", reference, re.DOTALL))
    words = reference if not formulas else reference[: formulas[0].start()] + reference[formulas[0].end() :]
    if len(_WORD.findall(_COMMAND.sub(" ", words))) < 2 or not _SAYS.search(words):
        return reference
    if len(formulas) == 1:
        return next(filter(None, formulas[0].groups())).strip()
    numbers = [] if formulas or len(re.findall(r"\d[\d,.]*", reference)) > 1 else _NUMBER.findall(reference)
    return numbers[0] if len(numbers) == 1 else reference
