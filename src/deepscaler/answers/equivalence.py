"""Whether two answers are mathematically equal. Symmetric, deterministic, bounded in time; model text is never run.

Same text, then exact whole numbers, then both texts parsed by our own grammar into answers of a kind (`kinds`) and
compared by structure (`comparison.compare`); expressions are compared exactly where values are rational and else to
25 digits at several points (`values.same_value`). What the grammar does not know is compared as a sequence of tokens.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from deepscaler.answers.comparison.antonyms import contrary_arrows, contrary_ranges, contrary_words
from deepscaler.answers.comparison.compare import Comparison
from deepscaler.answers.comparison.listed_antonyms import contrary_lists
from deepscaler.answers.comparison.noncommuting import contrary_products
from deepscaler.answers.comparison.statements import is_bare, stated
from deepscaler.answers.grammar.reading import read_answer
from deepscaler.answers.kinds import Answer, Prose
from deepscaler.answers.render import render
from deepscaler.answers.tokens.lexer import Token, UnreadableError, join_commas, tokenize
from deepscaler.answers.tokens.vocabulary import DROPPED, TRANSPARENT, UPRIGHT
from deepscaler.answers.trees import FIGURES
from deepscaler.answers.values.budget import reset

MAX_PARSED_CHARACTERS = 3000  # longer answers are equal by their text only
MAX_SHORT_CHARACTERS = 200
SHORT_ANSWERS, LONG_ANSWERS = 2048, 16  # remembered
# Contexts of mpmath change their precision for a moment in some functions, so threads take turns.
_ONE_AT_A_TIME = threading.Lock()
_LEADING_ZERO = re.compile(r",0\d")
_TYPESETTING = "left right middle displaystyle textstyle scriptstyle quad qquad enspace thinspace strut mathstrut relax"
_SIGNS_ALONE = re.compile(
    rf"(?:\\(?:{'|'.join(sorted({*_TYPESETTING.split(), *UPRIGHT, *TRANSPARENT}))}|[bB]igg?[lrm]?)(?![a-zA-Z])"
    r"|\\[^a-zA-Z]|[^0-9A-Za-z\\])*$"
)
_DROPPED_GROUP = re.compile(rf"\\(?:{'|'.join(sorted(DROPPED))})(?![a-zA-Z])")
_ARROWS = dict.fromkeys(["implies", "Rightarrow", "Longrightarrow", "rightarrow", "longrightarrow"], "to")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Equality:
    """`how` says in words which comparison decided."""

    equal: bool
    how: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as the grammar sees it: readings that differ in whether commas group digits, or why there is none.

    `tokens` is None where the tokenizer refuses the text, which then equals no other text; empty for a text of
    typesetting alone.
    """

    answers: tuple[Answer, ...]
    tokens: tuple[str, ...] | None
    why: str = ""

    @property
    def says_nothing(self) -> bool:
        return self.tokens == ()


def equal(answer: str, reference: str, *, tolerance: float | None = None) -> bool:
    """Whether the answer is mathematically equal to the reference. Arguments as for `equivalent`."""
    return equivalent(answer, reference, tolerance=tolerance).equal


def equivalent(answer: str, reference: str, *, tolerance: float | None = None) -> Equality:
    """Whether the two texts are mathematically equal, and which comparison decided. Never raises for any text.

    answer, reference: LaTeX or plain text, without `\\boxed{}`. tolerance: absolute difference up to which numbers are
    equal; None compares exactly.
    """
    left, right = answer.strip(), reference.strip()
    if not left or not right:
        return Equality(False, "nothing to compare")
    if left == right:
        return Equality(True, "same text")
    if tolerance is None and _WHOLE.fullmatch(left) and _WHOLE.fullmatch(right):
        return Equality(True, "same number") if int(left) == int(right) else Equality(False, "different whole numbers")
    if max(len(left), len(right)) > MAX_PARSED_CHARACTERS:
        return Equality(
            False, f"different texts, one longer than the {MAX_PARSED_CHARACTERS} characters that are parsed"
        )
    result = _compared(read(left), read(right), tolerance)
    contrary = _contrary(left, right) if result.equal else ""
    return Equality(False, f"what excludes each other: {contrary}") if contrary else result


def _contrary(left: str, right: str) -> str:
    tokens, others = read(left).tokens or (), read(right).tokens or ()
    return (
        contrary_words(left, right)
        or contrary_arrows(left, right)
        or contrary_ranges(tokens, others)
        or contrary_products(left, right)
        or contrary_lists(read(left).answers, tokens, read(right).answers, others)
    )


def _compared(left: Reading, right: Reading, tolerance: float | None) -> Equality:
    comparison = Comparison(None if tolerance is None else Fraction(repr(float(tolerance))))
    with _ONE_AT_A_TIME:
        reset()
        for a in left.answers:
            for b in right.answers:
                if comparison.same(a, b):
                    return Equality(True, comparison.how)
        # An answer may say of what its value is; a reference that is an equation asks for the equation.
        for a in left.answers:
            value = stated(a)
            if value is not a and any(is_bare(b) and comparison.same(value, b) for b in right.answers):
                return Equality(True, comparison.how)
    if left.tokens and left.tokens == right.tokens:
        return Equality(True, "same tokens")
    if not left.answers or not right.answers:
        return Equality(False, f"different texts, not understood: {left.why or right.why}")
    return Equality(False, "different values")


def read(text: str) -> Reading:
    """The text parsed; remembered, since references and common answers come back."""
    return _read_short(text) if len(text) <= MAX_SHORT_CHARACTERS else _read_long(text)


def _read(text: str) -> Reading:
    answers: list[Answer] = []
    tokens: list[Token] | None = None
    why = ""
    joined = join_commas(text)
    # 1,001 is one number; 1,234 may be a list as well.
    for version in dict.fromkeys((joined, joined if _LEADING_ZERO.search(text) else text)):
        try:
            tokens = tokenize(version)
            with _ONE_AT_A_TIME:
                reset()
                answers.append(read_answer(tokens))
        except UnreadableError as error:
            why = str(error)
    return Reading(tuple(answers), None if tokens is None else tuple(_opaque(tokens)), why)


_read_short, _read_long = lru_cache(SHORT_ANSWERS)(_read), lru_cache(LONG_ANSWERS)(_read)


def _opaque(tokens: Sequence[Token]) -> list[str]:
    r"""The text compared if the grammar cannot parse it: prose without case, braces around one token gone.

    Not around several letters: `\sqrt ab` is the root of a alone.
    """
    values = [t.value.casefold() if t.kind == "prose" else _ARROWS.get(t.value, t.value) for t in tokens]
    if "{" not in values:
        return values
    runs = {
        i
        for i, t in enumerate(tokens)
        if t.kind == "letters" and len(t.value) > 1 and i > 1 and values[i - 2] not in FIGURES
    }
    kept: list[str] = []
    index = 0
    while index < len(values):
        if values[index] == "{" and values[index + 2 : index + 3] == ["}"] and index + 1 not in runs:
            kept.append(values[index + 1])
            index += 3
        else:
            kept.append(values[index])
            index += 1
    return kept


def says_nothing(text: str) -> bool:
    r"""Whether the text is typesetting alone, which shows no answer: `\phantom{5}`, `\,`, `\text{}`."""
    maybe = _SIGNS_ALONE.match(text) is not None or _DROPPED_GROUP.search(text) is not None
    return maybe and read(text).says_nothing


def is_parsable(answer: str) -> bool:
    """Whether the answer is understood as mathematics or a choice, not as words or opaque text."""
    if len(answer) > MAX_PARSED_CHARACTERS:
        return False
    return any(not isinstance(a, Prose) for a in read(answer.strip()).answers)


def explain(answer: str, reference: str, *, tolerance: float | None = None) -> list[str]:
    """The comparison step by step, one line each: texts, what they were read as, what decided."""
    lines: list[str] = []
    for label, text in (("answer", answer.strip()), ("reference", reference.strip())):
        lines.append(f"{label}: {text}")
        if len(text) > MAX_PARSED_CHARACTERS:
            lines.append(f"  longer than the {MAX_PARSED_CHARACTERS} characters that are parsed")
            continue
        reading = read(text)
        lines += [f"  read as {render(a)}" for a in reading.answers] or [f"  not understood: {reading.why}"]
    equality = equivalent(answer, reference, tolerance=tolerance)
    lines.append(f"{'equal' if equality.equal else 'not equal'}: {equality.how}")
    return lines
