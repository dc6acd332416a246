r"""From the text of an answer to tokens: numbers, letters, words of prose, commands and signs. One pass, linear time.

What typesetting adds and mathematics does not mean (sizes, fonts, spacing, math delimiters) is gone afterwards. Upright
text keeps its words apart from variables: in `12\text{ cm}` the `cm` is prose, in `12cm` it is letters that happen to
spell a word.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from deepscaler.rewards.vocabulary import (
    CHINESE_DIGITS,
    DOTTED,
    DROPPED,
    NUMBER_SETS,
    SAME_COMMAND,
    TRANSPARENT,
    UNICODE,
    UPRIGHT,
)

MAX_NESTING = 40
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_CHINESE = re.compile("[零一二三四五六七八九十]{1,3}")
_UNIT_SQUARE = re.compile("(?<=\\d)\\s*([mc]?m|in|ft|km)([²³])")
_TRANSLATION = str.maketrans(UNICODE)
# Three digits after each separator that is no comma: 12 345 and 12\,345 and 12{,}345, but neither 12 34 nor 1 2 3.
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:(?:\{,\}|,\\!\s?|\\,|\\ |\\;|~| )\d{3})+)(?![\d])")
_LOOSE_COMMA = re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s?(?=\d{3}(?!\d))")
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_REPEATING = re.compile(r"(\d{0,9})\.(\d{0,20})\\(?:overline|bar|dot)\s?(?:\{(\d{1,20})\}|(\d))")
_REPEATED = re.compile(r"(\d{0,9})\.(\d{0,20}?)(\d)\3{2,}(?:\.{3,}|\s?\\[lc]?dots(?![a-zA-Z]))")
_HALF_DAY = re.compile(r"(?<![a-zA-Z.])([apAP])\.\s?[mM]\.")
_NOTHING = re.compile(
    r"\\(?:left|right|middle)(?![a-zA-Z])\.?|\\(?:[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it"
    r"|mathstrut|boldmath|centering|Large|large|small|noindent|relax|strut|unit)(?![a-zA-Z])"
    r"|(?<!\\)\\[()\[\]](?![a-zA-Z])|\\!|\\/|\$\$?|\*\*(?=[^*\s][^*]*\*\*)|(?<=[^*\s])\*\*$"
)
_SPACES = re.compile(
    r"\\(?:quad|qquad|enspace|thinspace|nobreak)(?=[^a-zA-Z]|[a-z]?[\\_={]|$)|\\quad|(?<!\\)\\(?:[,;:> \n]|$)|~|\x00"
)
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<dots>\.\.\.+)"
    r"|(?P<num>(?:\d+(?:\.\d*)?(?!\.)|\d+|\.\d+)(?:[eE][+-]?\d+(?![\dA-Za-z.]))?)"
    r"|(?P<brace>\\[{}|])|(?P<row>\\\\)|(?P<cmd>\\[a-zA-Z]+)|(?P<esc>\\.)|(?P<word>[a-zA-Z]+|[^\W\d_a-zA-Z]+)"
    r"|(?P<power>\*\*)|(?P<rel><=|>=|=<|=>|!=|==|:=|<>)|(?P<sign>.)",
    re.DOTALL,
)
_RELATIONS = {"<=": "le", "=<": "le", ">=": "ge", "=>": "ge", "!=": "ne", "<>": "ne", "==": "=", ":=": "="}


@dataclass(frozen=True, slots=True)
class Token:
    """kind: num, letters, prose (an upright word), roman (one upright letter), cmd or sign.

    `spaced`: white space stood before it.
    """

    kind: str
    value: str
    spaced: bool = False


class UnreadableError(ValueError):
    """The text is no answer of this grammar."""


def tokenize(text: str) -> list[Token]:
    r"""Tokens of an answer; braces `{}` group, `\{` and `\}` are signs. Raises UnreadableError."""
    if not text.isascii():
        text = _ascii_mathematics(text)
    if "\\" in text:
        text = text.replace("\\$", r"\text{ dollars }").replace("\\%", "%").replace("\\#", "#").replace("\\_", "_")
        text = text.replace("\\&", "&")
        text = _REPEATING.sub(_as_fraction, text)
    text = _HALF_DAY.sub(r"\1m", text)
    text = _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _LOOSE_COMMA.sub("", text)
    text = _REPEATED.sub(_as_fraction, text)
    text = _NOTHING.sub("", text)
    text = _SPACES.sub(" ", text)
    return _scan(text, upright=False, nesting=0)


def join_commas(text: str) -> str:
    """`text` with comma-separated thousands outside brackets as one number: the reading in which they are."""
    if not _COMMAS.search(text):
        return text
    depths, depth = [], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        depths.append(depth)
    return _COMMAS.sub(lambda m: m[0] if depths[m.start()] > 0 else m[0].replace(",", ""), text)


def _ascii_mathematics(text: str) -> str:
    text = _UNIT_SQUARE.sub(lambda m: rf"\text{{ {m[1]}}}^{'2' if m[2] == '²' else '3'}", text)
    text = _CHINESE.sub(_chinese_number, text) if _CHINESE.fullmatch(text.strip()) else text
    text = _RAISED.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}", text)
    return unicodedata.normalize("NFKC", text.translate(_TRANSLATION)).translate(_TRANSLATION)


def _chinese_number(match: re.Match[str]) -> str:
    tens, ten, ones = match[0].rpartition("十")
    if not ten:
        return "".join(str(CHINESE_DIGITS[c]) for c in match[0])
    return str(10 * (CHINESE_DIGITS[tens[0]] if tens else 1) + (CHINESE_DIGITS[ones[0]] if ones else 0))


def _as_fraction(match: re.Match[str]) -> str:
    r"""0.1\overline{6} as a fraction of whole numbers."""
    whole, places = match[1], match[2]
    repeated = next(group for group in match.groups()[2:] if group)
    top = int(whole + places + repeated) - int(whole + places or "0")
    return rf"\frac{{{top}}}{{{(10 ** len(repeated) - 1) * 10 ** len(places)}}}"


def _scan(text: str, *, upright: bool, nesting: int) -> list[Token]:
    if nesting > MAX_NESTING:
        raise UnreadableError("fonts nested too deeply")
    tokens: list[Token] = []
    position, spaced = 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None  # `sign` matches anything
        position, kind, value = match.end(), match.lastgroup, match[0]
        if kind == "space":
            spaced = True
            continue
        if kind == "cmd":
            name = SAME_COMMAND.get(value[1:], value[1:])
            if name in UPRIGHT or name in TRANSPARENT:
                inner, position = _group(text, position)
                part = _scan(inner, upright=name in UPRIGHT or upright, nesting=nesting + 1)
                if part and (spaced or inner[:1].isspace()):
                    part[0] = Token(part[0].kind, part[0].value, True)
                tokens += part
                spaced = inner[-1:].isspace() or (spaced and not part)
                continue
            if name in DROPPED or name == "textcolor":
                position = _group(text, position)[1]
                continue
            if name in DOTTED:
                inner, position = _group(text, position)
                tokens += _scan(inner, upright=upright, nesting=nesting + 1)
                tokens += [Token("sign", "'")] * DOTTED[name]
                continue
            if name == "mathbb":
                inner, position = _group(text, position)
                name = NUMBER_SETS.get(inner.strip(), "mathbb")
            tokens.append(_command(name, spaced))
        elif kind == "word":
            tokens.append(_word(value, upright, spaced))
        elif kind == "dots":
            tokens.append(Token("cmd", "ldots", spaced))
        elif kind == "power":
            tokens.append(Token("sign", "^", spaced))
        elif kind == "rel":
            tokens.append(Token("sign" if _RELATIONS[value] == "=" else "cmd", _RELATIONS[value], spaced))
        elif kind == "brace":
            tokens.append(Token("sign", "|" if value == "\\|" else value, spaced))
        elif kind == "num":
            tokens.append(Token("num", value, spaced))
        elif kind != "esc":
            tokens.append(Token("sign", "\\\\" if kind == "row" else value, spaced))
        spaced = False
    return tokens


def _command(name: str, spaced: bool) -> Token:
    if len(name) == 1 and name.isascii() and name.isalpha():
        return Token("letters", name, spaced)
    return Token("cmd" if name.isalpha() else "sign", name, spaced)


def _word(value: str, upright: bool, spaced: bool) -> Token:
    if not value.isascii():
        return Token("prose", value, spaced)
    if upright:
        return Token("prose" if len(value) > 1 else "roman", value, spaced)
    return Token("letters", value, spaced)


def _group(text: str, start: int) -> tuple[str, int]:
    """The content of the brace group at `start` (or the one character there) and the position after it."""
    while start < len(text) and text[start].isspace():
        start += 1
    if start >= len(text) or text[start] != "{":
        return text[start : start + 1], min(start + 1, len(text))
    depth = 0
    for position in range(start, len(text)):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : position], position + 1
    return text[start + 1 :], len(text)
