r"""Whether two problems are the same problem. The rule, and what it rests on.

Words alone do not tell: "How many primes lie between 20 and 30?" and the same for 30 and 40 share nearly every word and
are two problems, while a reworded problem may share half. So the decision rests on three things together: the numbers
(those of one text must occur in the other), the answers (equal answers that are unlikely by accident are strong
evidence), and the wording (Jaccard similarity and containment of word pairs). docs/data.md has the measured figures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from deepscaler.data.prepare.normalize import NormalizedTexts, is_number

SameAnswer = Callable[[str, str], bool]

_FILLERS = (
    "a an the of is are was were be and or in on at to for with by as if then that this these those such it its there "
    "find compute determine calculate evaluate what let suppose given have has we you your express answer value number "
    "s also do does which"
)
_SYNONYMS = (
    "how many all can possible positive real integer integers whole numbers values divisors divisor factors factor "
    "smallest least greatest largest maximum minimum solve following exactly each measure measures expressed form "
    "common fraction simplest radical terms where when respectively"
)
# Words that ask or connect without saying what: a text may differ in them and stay the same question.
FILLERS = frozenset(_FILLERS.split())
# Where the answers agree, these do not make two problems of one either.
SYNONYMS = FILLERS | frozenset(_SYNONYMS.split())
MIN_JACCARD = 0.5  # of word pairs, for problems with equal answers
REWRITTEN_JACCARD = 0.3  # the same where the answer has three digits and more
MIN_CONTAINMENT = 0.85  # of the shorter problem's word pairs in the longer one
MIN_LETTERS = 12  # of a text contained in another, for problems with equal answers
LISTED_JACCARD = 0.6  # alike enough to be listed as another question of the same pattern


class Match(StrEnum):
    """How two texts relate; all but `SIMILAR` are the same problem."""

    VERBATIM = "verbatim"  # equal up to typesetting, answers agree
    REWORDED = "reworded"  # answers agree, numbers agree, wording close
    ENCODED = "encoded"  # the answer of one is that of the other in the contest's form: 7/18 asked as m + n = 25
    CONTAINED = "contained"  # one text contains the other
    CONFLICT = "conflict"  # the same text, letter by letter, with answers that differ
    SIMILAR = "similar"  # the same words, another question: other numbers, another quantity asked for


@dataclass(frozen=True, slots=True)
class Side:
    """One problem of a pair: tokens, digest of figures (empty without), letters (`letter_text`), reference answers."""

    tokens: Sequence[str]
    figure: str
    letters: str
    answers: tuple[str, ...]

    @classmethod
    def of(cls, normalized: NormalizedTexts, index: int, answers: Sequence[str]) -> Side:
        return cls(normalized[index], normalized.figures[index], normalized.letters[index], tuple(answers))


def compare(a: Side, b: Side, *, jaccard: float, containment: float, same_answer: SameAnswer) -> Match | None:
    """How `a` and `b` relate, given the overlap of their word pairs; None for problems that only share phrases."""
    pair = _Pair(a, b, jaccard, containment)
    whole = holds_letters(a.letters, b.letters) or holds_letters(b.letters, a.letters)
    if pair.same_numbers and (jaccard >= REWRITTEN_JACCARD or containment >= MIN_CONTAINMENT or whole):
        if any(same_answer(x, y) for x in a.answers for y in b.answers):
            if (list(a.tokens) == list(b.tokens) or a.letters == b.letters) and not pair.other_figure:
                return Match.VERBATIM
            if _same_question(pair) or (whole and not pair.other_figure):
                return Match.REWORDED
        elif _encodes(pair):
            return Match.ENCODED
        elif not pair.other_figure and a.letters == b.letters:
            return Match.CONFLICT
    return Match.SIMILAR if jaccard >= LISTED_JACCARD or pair.contained else None


class _Pair:
    """What the rule asks of two problems, worked out once.

    extra_a, extra_b: tokens that one has more often than the other. length: tokens of the shorter one.
    """

    def __init__(self, a: Side, b: Side, jaccard: float, containment: float) -> None:
        self.a, self.b, self.jaccard, self.containment = a, b, jaccard, containment
        self.extra_a, self.extra_b = _difference(a.tokens, b.tokens)
        self.length = min(len(a.tokens), len(b.tokens))
        self.same_numbers = not (_numbers(self.extra_a) and _numbers(self.extra_b))
        self.other_figure = bool(a.figure and b.figure and a.figure != b.figure)
        self.contained = containment >= MIN_CONTAINMENT and self.length >= 15


def _same_question(pair: _Pair) -> bool:
    """For problems with equal answers and numbers: whether their wording is close enough for what the answer proves.

    A long number as the answer proves much; "2", "(C)" or "odd" little, so there the texts may differ in phrasing only.
    """
    digits = max(_digits(answer) for answer in (*pair.a.answers, *pair.b.answers))
    close = pair.jaccard >= MIN_JACCARD
    if pair.other_figure:
        return close and digits >= 2 and pair.length >= 20
    telling = digits >= 3 or (digits == 2 and pair.length >= 40) or (digits == 1 and pair.length >= 80)
    if not telling:
        rest_a, rest_b = set(pair.extra_a) - SYNONYMS, set(pair.extra_b) - SYNONYMS
        return close and not any(map(_is_mathematics, rest_a | rest_b)) and not (rest_a and rest_b)
    rewritten = pair.jaccard >= REWRITTEN_JACCARD and pair.containment >= MIN_JACCARD
    return close or pair.contained or (rewritten and digits >= 3 and pair.length >= 20)


# Words by which a contest asks for a whole number instead of the answer itself.
_CONTEST_WORDS = frozenset(
    ("+", "|", "remainder", "form", "relatively", "nearest", "sum", r"\lfloor", r"\sqrt", "m", "1000", "10")
)
_ROUNDING_WORDS = frozenset(("remainder", "nearest", r"\lfloor"))
_IRRATIONAL = re.compile(r"\\(?:sqrt|pi|log|ln|sin|cos|tan)(?![a-z])")


def _encodes(pair: _Pair) -> bool:
    r"""Whether one asks in a contest's form for what the other asks plainly: `\frac{7}{18}` as m + n = 25.

    The integer's side must carry words of that form which the other lacks, and the rest must agree closely.
    """
    if not (pair.contained or (pair.jaccard >= 0.4 and pair.containment >= 0.75 and not pair.other_figure)):
        return False
    a, b, extra_a, extra_b = pair.a, pair.b, pair.extra_a, pair.extra_b
    for whole, form, plain, rest in ((a, extra_a, b, extra_b), (b, extra_b, a, extra_a)):
        wholes = [int(answer) for answer in whole.answers if re.fullmatch(r"\d{1,3}", answer)]
        if not wholes or not form.keys() & _CONTEST_WORDS:
            continue
        least = 100 if any(map(_is_mathematics, rest.keys() - SYNONYMS)) else 0  # small numbers agree by accident
        numbers = {number for answer in plain.answers for number in contest_numbers(answer) if number >= least}
        # Rounding an irrational answer is not checked; it is enough that the other contains the plain text.
        rounds = form.keys() & _ROUNDING_WORDS and any(map(_IRRATIONAL.search, plain.answers))
        if numbers.intersection(wholes) or (rounds and pair.contained and rest.keys() <= FILLERS):
            return True
    return False


def contest_numbers(plain: str) -> set[int]:
    r"""The integers from 0 to 999 as which a contest may ask for the answer `plain`.

    The sum of the integers in it, also with factors drawn into the roots (3\sqrt{3} = \sqrt{27}); an integer's
    remainder modulo 1000, absolute value and tenfold; a fraction's denominator, floor, tenfold, and thousandfold
    rounded down.
    """
    plain = re.sub(r"\s|\\[,!]|\{,\}|\$|(?<=\d),(?=\d{3})", "", plain)
    if len(plain) > 200:
        return set()
    if re.fullmatch(r"-?\d{1,18}", plain):
        integer = int(plain)
        found = {-integer, 10 * integer} | ({integer % 1000} if integer > 999 else set())
    else:
        drawn_in = re.sub(r"(\d{1,9})\\sqrt\{?(\d{1,9})\}?", lambda m: str(int(m[1]) ** 2 * int(m[2])), plain)
        found = {sum(map(int, re.findall(r"\d{1,18}", form))) for form in (plain, drawn_in)}
        if fraction := re.fullmatch(r"\\[dt]?frac\{?(\d{1,9})\}?\{?(\d{1,9})\}?", plain):
            top, bottom = int(fraction[1]), int(fraction[2])
            found.add(bottom)
            if bottom:
                found |= {top // bottom, 1000 * top // bottom}
                found |= set() if 10 * top % bottom else {10 * top // bottom}
    return {number for number in found if 0 <= number <= 999}


def _difference(a: Sequence[str], b: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Tokens that one has more often than the other, in both directions."""
    count_a, count_b = Counter(a), Counter(b)
    return count_a - count_b, count_b - count_a


def holds_letters(text: str, part: str, *, least: int = 0) -> bool:
    """Whether `text` contains `part`, both as `letter_text`, and says enough to be a problem of its own.

    least: letters it must have. Any part needs a number in it or 40 letters, and its numbers must end where they do.
    """
    if len(part) < max(least, MIN_LETTERS) or not (len(part) >= 40 or any(map(str.isdigit, part))):
        return False
    start = text.find(part)
    if start < 0:
        return False
    before, after = text[:start][-1:], text[start + len(part) :][:1]
    return not (before.isdigit() and part[0].isdigit()) and not (after.isdigit() and part[-1].isdigit())


def holds_numbers(text: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `text` contains every number of `part`, as often."""
    return not _numbers(_difference(part, text)[0])


def _numbers(extra: Counter[str]) -> bool:
    return any(map(is_number, extra))


def _is_mathematics(token: str) -> bool:
    """Whether a token is a number, a letter, an operator or a command rather than a word."""
    return len(token) == 1 or not token.isalpha()


def _digits(answer: str) -> int:
    """Digits of the longest number in an answer, without leading zeros."""
    return max((len(number.lstrip("0")) for number in re.findall(r"\d+", answer)), default=0)
