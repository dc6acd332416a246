r"""Texts that something broke on their way: LaTeX commands eaten by escapes, halves of characters.

JSON and Python read `\f`, `\b` and `\t` in a string as control characters, so a file whose backslashes were not doubled
holds a form feed and `rac12` where `\frac12` was meant. Where the characters have one reading it is put back.
"""

from __future__ import annotations

import re
from bisect import bisect

_LETTER = {"\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r"}
# Before letters no text of a problem holds these: they begin a command, or the text is broken.
_COMMANDS = re.compile(
    "alpha|angle|approx|ast|arc(?:sin|cos|tan)|arg|array|aligned|beta|begin|bar|[bB]ig|binom|boxed|bmod|bot|bullet|"
    "backslash|because|boldsymbol|vec|vert|var(?:epsilon|theta|phi|nothing)|vdots|vee|wedge|frac|forall|flat|fbox"
)
# Before a word a tab or a line end may be meant, so only what is no beginning of a word is put back;
_NO_WORDS = re.compile(
    "times|theta|text(?:bf|it|rm|sf|style)|tfrac|triangle|triangleq|tbinom|tilde|tanh|tau|right|rightarrow|rceil|rho|rvert"
)
# inside a formula these too.
_IN_FORMULA = re.compile("text|tan|to|neq|nsubseteq|nabla|ngeq|nleq|notin|rangle|rfloor")
_EATEN = re.compile(r"([\a\b\v\f])([A-Za-z]+)|([\t\n\r])([a-z]+)(?![A-Za-z])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x01-\x08\x0e-\x1f\x7f]|[\x0b\x0c](?=[A-Za-z])")


def repair_latex(text: str, *, is_formula: bool = False) -> str:
    """The text with LaTeX commands in place of the control characters that escapes made of their beginnings.

    Only where that is the one reading; `fault_of` names what stays. is_formula: an answer, not prose with formulas.
    """
    dollars = [found.start() for found in re.finditer(r"(?<!\\)\$", text)] if _EATEN.search(text) else []

    def restored(found: re.Match[str]) -> str:
        control = found[1] or found[3]
        command = _LETTER[control] + (found[2] or found[4])
        if found[1]:  # `\frac12` goes on with digits, but `\alphax` with a letter
            known = _COMMANDS.match(command) is not None
        else:
            braced = command == "text" and text.startswith("{", found.end())
            known = braced or _NO_WORDS.fullmatch(command) is not None
            if not known and _IN_FORMULA.fullmatch(command):
                known = is_formula or bisect(dollars, found.start()) % 2 == 1
        return f"\\{command}" if known else found[0]

    return _EATEN.sub(restored, text)


def fault_of(text: str) -> str:
    """Why a text is broken, in words; empty for one that is whole."""
    if _SURROGATE.search(text):
        return "half of a surrogate pair, which is no character"
    if control := _CONTROL.search(text):
        after = text[control.start() + 1 : control.start() + 13]
        return (
            f"the control character {control[0]!r} before {after!r}, which escapes make of a command's backslash; "
            "double the backslashes where the file is written"
        )
    return ""
