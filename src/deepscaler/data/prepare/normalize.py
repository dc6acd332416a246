r"""Normalizes a problem: its text without typesetting, the form in which problems are compared.

    Find $\dfrac{1}{2}x_{}^{}$ if $x=1{,}000\,$.   ->   find / 1 2 x if x = 1000

Words, numbers, operators and LaTeX commands become tokens; delimiters, braces, spacing, sizing, punctuation and empty
scripts go. Numbers stay, since they are what tells two problems of one pattern apart. Figures (`[asy]` code) are kept
beside the tokens: two drawings of one situation differ in every line.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

_FIGURE = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]*\*?\}(?:\{[lcr|]*\})?")
_EMPTY_SCRIPT = re.compile(r"[_^]\s*\{\s*\}|(?<!\\)\{\s*\}")
_DELIMITER = re.compile(r"\\[\[\]()]|\$|\\[,;:!> ]|~")
# `\frac12` is one half, not a twelve.
_FIRST_DIGIT = re.compile(r"(\\(?:[dtc]?frac|binom)\s*\d)(?=[\d{])")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Chinese and Japanese are written without spaces: every character is a word.
_TOKEN = re.compile(r"\\[a-z]+|[぀-ヿ一-鿿]|[^\W\d_぀-ヿ一-鿿]+|\d+(?:\.\d+)?|\.\d+|!|[^\s\w{}$\\.,;:?!'\"()&~`_^\[\]]")
# `$ABx$`: letters side by side are factors there, `AB x` as well as `A B x`.
_FORMULA = re.compile(
    r"(?<!\\)\$\$.*?\$\$|(?<!\\)\$.*?(?<!\\)\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|\\begin\{(align|equation|gather|eqnarray)\*?\}.*?\\end\{\1\*?\}",
    re.DOTALL,
)
_KEEP_OR_SPLIT = re.compile(r"\\(?:begin|end)\{\w*\*?\}|\\[a-zA-Z]+|(?<=[a-zA-Z])(?=[a-zA-Z])")
# Punctuation that NFKC leaves apart: dashes, the full stop and comma of Chinese and Japanese, quotation marks.
_FOLDED = str.maketrans("\u2212\u2013\u2014\u3002\u3001\u201c\u201d\u201e\u2018\u2019", '---.,"""\'\'')
_NUMBER = re.compile(r"\d*\.?\d+")
_SILENT_COMMANDS = (
    "left right displaystyle text mathrm textbf textit textrm mathbf mbox quad qquad big bigl bigr emph it bf rm cal "
    "mathcal hspace operatorname mathop limits nolimits underline hline cdot colon lbrace rbrace"
)
_SILENT = frozenset(rf"\{name}" for name in _SILENT_COMMANDS.split())
_NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve"
_UNSEEN = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[,;:!> \[\]()]|[$\s.,~]")
_SAME = {
    **{rf"\{letter}frac": "/" for letter in ("", "d", "t", "c")},
    **{rf"\{name}": r"\ldots" for name in ("dots", "cdots", "dotsm", "dotsb", "dotsc")},
    **{word: str(number) for number, word in enumerate(_NUMBER_WORDS.split(), start=1)},
    r"\le": r"\leq",
    r"\ge": r"\geq",
    r"\ne": r"\neq",
    r"\over": "/",
    r"\triangle": "triangle",
    r"\angle": "angle",
    r"\degree": r"\circ",
    "degree": r"\circ",
    "degrees": r"\circ",
    r"\mid": "|",
    r"\vert": "|",
}


def words(text: str) -> list[str]:
    """The tokens of a problem, without its figures."""
    text = unicodedata.normalize("NFKC", text).translate(_FOLDED)
    text = _FIGURE.sub(" ", text)
    text = _FORMULA.sub(lambda formula: _factors_apart(formula[0]), text)
    text = _ENVIRONMENT.sub(" ", text)
    while (shorter := _EMPTY_SCRIPT.sub("", text)) != text:
        text = shorter
    text = _FIRST_DIGIT.sub(r"\1 ", text)
    text = _GROUPED.sub("", text.replace("\\!", "").replace("{,}", ","))
    text = _DELIMITER.sub(" ", text).lower()
    tokens: list[str] = _TOKEN.findall(text)
    return [_SAME.get(token) or token for token in tokens if token not in _SILENT]


def _factors_apart(formula: str) -> str:
    """A formula with a space between letters that stand side by side, but for those of commands."""
    return _KEEP_OR_SPLIT.sub(lambda found: found[0] or " ", formula)


def figure_digest(text: str) -> str:
    """A hash of the figures' code without white space; empty for a problem without figures."""
    code = "".join("".join(found.split()) for found in _FIGURE.findall(text))
    return hashlib.blake2b(code.encode(), digest_size=8).hexdigest() if code else ""


def letter_text(text: str) -> str:
    r"""The text letter by letter, without white space, `$`, sizing commands, points and commas, and braces around one
    character. Unlike `words` it tells `88 / (4 / 2)` from `88 / 4 / 2`, and does not care where formulas begin."""
    text = unicodedata.normalize("NFKC", text).translate(_FOLDED).lower()
    text = _UNSEEN.sub("", text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac"))
    return re.sub(r"\{(\w)\}", r"\1", text)


class Vocabulary:
    """Token <-> id, growing. `is_number` and the words are looked up by id."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.words: list[str] = []

    def encode(self, tokens: Iterable[str]) -> Ids:
        ids, known = self._ids, self.words
        encoded = []
        for token in tokens:
            index = ids.get(token)
            if index is None:
                index = ids[token] = len(known)
                known.append(token)
            encoded.append(index)
        return np.array(encoded, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        return [self.words[index] for index in ids]


class NormalizedTexts:
    """Many problems normalized, in one vocabulary.

    tokens: int32, all problems after each other; offsets: int64 [num_problems + 1]; figures, letters: per problem the
    digest of its figures (empty without) and its text letter by letter.
    """

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary) -> None:
        encoded = [vocabulary.encode(words(text)) for text in texts]
        self.vocabulary = vocabulary
        self.offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(np.int64)
        self.tokens = np.concatenate([*encoded, np.empty(0, np.int32)])
        self.figures = [figure_digest(text) for text in texts]
        self.letters = [letter_text(text) for text in texts]

    def __len__(self) -> int:
        return len(self.figures)

    def __getitem__(self, index: int) -> list[str]:
        return self.vocabulary.decode(self.tokens[self.offsets[index] : self.offsets[index + 1]].tolist())


def is_number(token: str) -> bool:
    return _NUMBER.fullmatch(token) is not None
