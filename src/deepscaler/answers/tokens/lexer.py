r"""From the text of an answer to tokens: numbers, letters, words of prose, commands and signs. One pass, linear time.

What typesetting adds and mathematics does not mean (sizes, fonts, spacing, math delimiters) is gone afterwards. Upright
text keeps its words apart from variables: in `12\text{ cm}` the `cm` is prose, in `12cm` it is letters that happen to
spell a word.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from deepscaler.answers.tokens.vocabulary import (
    CHINESE_DIGITS,
    DOTTED,
    DROPPED,
    NUMBER_SETS,
    SAME_COMMAND,
    TRANSPARENT,
    UNICODE,
    UPRIGHT,
)

MAX_CHARACTERS = 4000  # after signs have become commands
MAX_NESTING = 40
MAX_BRACKETS = 60
_OPENING, _CLOSING = frozenset(["(", "[", "{", "\\{"]), frozenset([")", "]", "}", "\\}"])
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_SMALL_FRACTION = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄∕/]([₀₁₂₃₄₅₆₇₈₉]+)")
_CHINESE = re.compile("[零一二三四五六七八九十]{1,3}")
_UNIT_SQUARE = re.compile("(?<=\\d)\\s*([mc]?m|in|ft|km)([²³])")
_TRANSLATION = str.maketrans(UNICODE)
# Three digits after each separator that is no comma: 12 345 and 12\,345 and 12{,}345, but neither 12 34 nor 1 2 3.
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:(?:\{,\}|,\\!\s?|\\,|\\ |\\;|~|'| )\d{3})+)(?![\d'])")
_TEXT_COMMA = re.compile(r"(?<=\d)\\(?:text|mathrm|mathord|mathpunct)\{,\}(?=\d{3}(?!\d))")
_MICRO = re.compile(r"\\mu\s*\\(?:text|mathrm|rm)\s*\{\s*([a-zA-Z])\s*\}|\\(?:text|mathrm)\{\s*\\mu\s*([a-zA-Z])\s*\}")
_IN_BRACKETS = re.compile(r"(-?\d{0,9})\.(\d{0,20})\((\d{1,20})\)")  # 0.1(6) as a whole answer
_STARRED = re.compile(r"\\(begin|end)\s?\{([a-zA-Z]{1,12})\*\}")
_LOOSE_COMMA = re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s?(?=\d{3}(?!\d))")
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_FONT_GROUP = re.compile(r"(\\(?:text[a-z]*|mathrm|mathbf))\{([^{}]*)\}")  # its braces enclose no list
_REPEATING = re.compile(r"(\d{0,9})\.(\d{0,20})\\(?:overline|bar|dot)\s?(?:\{(\d{1,20})\}|(\d))")
_REPEATED = re.compile(r"(\d{0,9})\.(\d{0,20}?)(\d)\3{2,}(?:\.{3,}|\s?\\[lc]?dots(?![a-zA-Z]))")
_REPEATING_IN_BRACKETS = re.compile(r"(?<![\d.,])(\d{0,9})\.(\d{0,20})\((\d{1,20})\)(?![\w(])")
_UNION = re.compile(r"(,[^,()\[\]]*[\])])\s*[Uu]\s*(?=[\[(][^,()\[\]]*,)")
_MATHEMATICS = re.compile(r"(?<!\\)\$(?:(?=\s?\.?\d)|\S|$)")  # one that opens or closes, or one before a number
_ORDINAL = re.compile(r"(?<=\d)\s?\^\s?\{?\\(?:text|mathrm)\{\s?(?:st|nd|rd|th)\}\}?")
# Below a line: two points of a segment, or nothing that the line changes; a letter or a number by its digits, one name;
# of all else the line makes the conjugate or complement.
_SEGMENT = re.compile(r"[A-Z'_0-9\s]{2,}|[0-9.\s]*|\s*\\text.*")
_ONE_NAME = re.compile(r"(?=.*[a-z])[0-9a-z]{2,}|[a-zA-Z]|\\[a-z]+")
_HALF_DAY = re.compile(r"(?<![a-zA-Z.])([apAP])\.\s?[mM]\.")
_NOTHING = re.compile(
    r"\\(?:begin|end)\s?\{(?:equation|displaymath|math|center)\*?\}|"
    r"\\(?:left|right|middle)(?![a-zA-Z])\.?|\\(?:[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it"
    r"|mathstrut|allowbreak|nobreak|linebreak|nolinebreak|hfill|boldmath|centering|Large|large|small|noindent|relax|strut"
    r"|unit)(?![a-zA-Z])"
    r"|(?<!\\)\\[()\[\]](?![a-zA-Z])|\\!|\\/|\$\$?|\*\*(?=[^*\s][^*]*\*\*)|(?<=[^*\s])\*\*$"
)
_SPACES = re.compile(
    r"\\(?:quad|qquad|enspace|thinspace|nobreak)(?=[^a-zA-Z]|[a-z]?[\\_={]|$)|\\quad|(?<!\\)\\(?:[,;:> \n]|$)|~|\x00"
)
_PARAGRAPH = re.compile(r"[ \t]*\n\s*\n\s*")  # between the items of a list
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<dots>\.\.\.+)"
    r"|(?P<num>(?:\d+(?:\.\d*)?(?!\.)|\d+|\.\d+)(?:[eE][+-]?\d+(?![\dA-Za-z.]))?)"
    r"|(?P<brace>\\[{}|])|(?P<row>\\\\(?:\*|\s?\[-?[\d.]+\s?(?:pt|ex|em|mm|cm|in|mu|bp|pc)\]){0,2})|(?P<cmd>\\[a-zA-Z]+)|(?P<esc>\\.)|(?P<word>[a-zA-ZÀ-ÖØ-öø-ɏ]+|[^\W\d_a-zA-ZÀ-ÖØ-öø-ɏ]+)"
    r"|(?P<power>\*\*)|(?P<rel><=|>=|=<|=>|!=|==|:=|<>)|(?P<sign>.)",
    re.DOTALL,
)
_WITH_GROUP = UPRIGHT | TRANSPARENT | DROPPED | DOTTED.keys() | {"mathbb"}
_FUNCTION_WORDS = frozenset(["arctg", "tg", "ctg", "cosec"])
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
    text = _priced(text) if "$" in text else text
    if "\\" in text:
        text = text.replace("\\$", r"\text{ dollars }").replace("\\%", "%").replace("\\#", "#").replace("\\_", "_")
        text = text.replace("\\text{,}", "{,}")
        text = text.replace("\\&", "&")
        text = _ORDINAL.sub("", text)
        text = _REPEATING.sub(_as_fraction, text)
        text = _TEXT_COMMA.sub("{,}", text)
        text = _STARRED.sub(r"\\\1{\2}", text)
        text = _MICRO.sub(lambda m: rf"\text{{ u{m[1] or m[2]}}}", text)
    if "\n" in text:
        text = _PARAGRAPH.sub(", ", text)
    if len(text) > MAX_CHARACTERS:
        raise UnreadableError(f"longer than {MAX_CHARACTERS} characters")
    text = _HALF_DAY.sub(r"\1m", text)
    if "U" in text or "u" in text:
        text = _UNION.sub(r"\1\\cup ", text)
    if "." in text:
        text = _REPEATING_IN_BRACKETS.sub(_as_fraction, text)
    if text[:1] == text[-1:] == "`":
        text = text.strip("`")
    text = _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _LOOSE_COMMA.sub("", text)
    text = _REPEATED.sub(_as_fraction, text)
    repeating = _IN_BRACKETS.fullmatch(text.strip(" $"))
    text = _as_fraction(repeating) if repeating else text
    text = _NOTHING.sub("", text).replace("{:}", ":")
    text = _SPACES.sub(" ", text)
    tokens = _scan(text, upright=False, nesting=0)
    depth = deepest = 0
    for token in tokens:
        depth += (token.value in _OPENING) - (token.value in _CLOSING)
        deepest = max(deepest, depth)
    if deepest > MAX_BRACKETS:
        raise UnreadableError("brackets nested too deeply")
    return tokens


def _priced(text: str) -> str:
    r"""`$18` as `\$18`: dollar signs that all precede digits, and close nothing, are money."""
    signs = _MATHEMATICS.findall(text)
    return _MATHEMATICS.sub(r"\\$", text) if signs and all(sign == "$" for sign in signs) else text


def join_commas(text: str) -> str:
    """`text` with comma-separated thousands outside brackets as one number: the reading in which they are."""
    if not _COMMAS.search(text):
        return text
    depths, depth = [], 0
    for character in _FONT_GROUP.sub(r"\1 \2 ", text):
        depth += (character in "([{") - (character in ")]}")
        depths.append(depth)
    return _COMMAS.sub(lambda m: m[0] if depths[m.start()] > 0 else m[0].replace(",", ""), text)


def _ascii_mathematics(text: str) -> str:
    text = _UNIT_SQUARE.sub(lambda m: rf"\text{{ {m[1]}}}^{'2' if m[2] == '²' else '3'}", text)
    text = _CHINESE.sub(_chinese_number, text) if _CHINESE.fullmatch(text.strip()) else text
    text = _SMALL_FRACTION.sub(lambda m: f"{m[1].translate(_SUPERSCRIPTS)}/{m[2].translate(_SUBSCRIPTS)}", text)
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
    whole, places = match[1].removeprefix("-"), match[2]
    sign = "-" if match[1].startswith("-") else ""
    repeated = next(group for group in match.groups()[2:] if group)
    top = int(whole + places + repeated) - int(whole + places or "0")
    return rf"{sign}\frac{{{top}}}{{{(10 ** len(repeated) - 1) * 10 ** len(places)}}}"


def _scan(text: str, *, upright: bool, nesting: int) -> list[Token]:
    if nesting > MAX_NESTING:
        raise UnreadableError("fonts nested too deeply")
    tokens: list[Token] = []
    position, spaced = 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None  # `sign` matches anything
        position, kind, value = match.end(), match.lastgroup, match[0]
        name = SAME_COMMAND.get(value[1:], value[1:]) if kind == "cmd" else ""
        if kind == "space":
            spaced = True
        elif name in _WITH_GROUP:
            inner, position = _group(text, position)
            part = _wrapped(name, inner, spaced=spaced, upright=upright, nesting=nesting)
            tokens += part
            spaced = inner[-1:].isspace() or (spaced and not part)
        elif kind != "esc":
            tokens.append(_token(kind or "sign", name or value, upright=upright, spaced=spaced))
            spaced = False
    return tokens


def _wrapped(name: str, inner: str, *, spaced: bool, upright: bool, nesting: int) -> list[Token]:
    """The tokens of a command's group: its text, its text with primes for dots, a letter for a number set, or none."""
    if name in DROPPED:
        return []
    if name == "mathbb":
        return [Token("cmd", NUMBER_SETS.get(inner.strip(), "mathbb"), spaced)]
    overlined = name in ("overline", "bar") and not _SEGMENT.fullmatch(inner)
    if overlined and _ONE_NAME.fullmatch(inner.strip()):
        return [Token("cmd", f"overline {inner.strip()}", spaced)]
    part = _scan(inner, upright=name in UPRIGHT or (upright and name not in DOTTED), nesting=nesting + 1)
    if overlined:
        return [Token("cmd", "conj", spaced), Token("sign", "("), *part, Token("sign", ")")]
    if part and (spaced or inner[:1].isspace()):
        part[0] = Token(part[0].kind, part[0].value, True)
    return part + [Token("sign", "'")] * DOTTED.get(name, 0)


def _token(kind: str, value: str, *, upright: bool, spaced: bool) -> Token:
    if kind == "cmd":
        return _command(value, spaced)
    if kind == "word":
        return _word(value, upright, spaced)
    if kind == "rel":
        return Token("sign" if _RELATIONS[value] == "=" else "cmd", _RELATIONS[value], spaced)
    if kind == "dots":
        return Token("cmd", "ldots", spaced)
    if kind == "num":
        return Token("num", value, spaced)
    return Token("sign", {"power": "^", "row": "\\\\"}.get(kind, "|" if value == "\\|" else value), spaced)


def _command(name: str, spaced: bool) -> Token:
    if len(name) == 1 and name.isascii() and name.isalpha():
        return Token("letters", name, spaced)
    return Token("cmd" if name.isalpha() else "sign", name, spaced)


def _word(value: str, upright: bool, spaced: bool) -> Token:
    if not value.isascii():
        return Token("prose", value, spaced)
    if upright:
        value = SAME_COMMAND[value] if value in _FUNCTION_WORDS else value
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
