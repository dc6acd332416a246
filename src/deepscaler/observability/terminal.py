"""The one place where text becomes output: control characters are shown, never obeyed.

Names, messages of servers and answers of models come from others. An escape sequence in them could rewrite what is on
the screen, set a title or fill the clipboard; so it is shown as `\\x1b` instead, on a terminal and in a pipe to one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

# Controls of ASCII but tab and line feed, and of Latin-1; line separators; marks that turn the direction of text;
# halves of surrogate pairs, which cannot be encoded.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UP = "\x1b[A"  # the download bars of huggingface_hub write it alone, to go back to the bar above
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def shown(text: str) -> str:
    """The text with every control character written out. In JSON strings it stays the same text."""
    return _HIDDEN.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return (
        f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}"
    )  # JSON has the second form only, and never the first bare


def control(stream: TextIO, sequence: str) -> None:
    """Write a control sequence of our own, such as going back to the beginning of the line."""
    raw = stream.raw if isinstance(stream, _Shown) else stream
    raw.write(sequence)


def install() -> None:
    """Let everything that is written to standard output and error from now on be shown."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Shown):
            setattr(sys, name, _Shown(stream))


def console(**settings: Any) -> Any:
    """rich's console for text of others: what it prints is shown, and only its own styles reach the terminal."""
    from rich.console import Console
    from rich.segment import Segment

    class ShowingConsole(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
            for segment in super().render(*args, **kwargs):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(shown(segment.text), segment.style)

    return ShowingConsole(**settings)


class _Shown:
    """A text stream that makes what is written to it harmless, and otherwise is the wrapped stream."""

    def __init__(self, raw: TextIO, *, colours: bool = False) -> None:
        self.raw, self._colours = raw, colours

    def write(self, text: str) -> int:
        if text == _UP:
            self.raw.write(text)
        elif text.startswith("\r"):  # of a line that is rewritten; within a text it could hide what goes before it
            self.raw.write("\r")
            self._write(text[1:])
        else:
            self._write(text)
        return len(text)

    def _write(self, text: str) -> None:
        if self._colours:
            parts = _COLOUR.split(text)  # every other one is a colour
            text = "".join(part if number % 2 else shown(part) for number, part in enumerate(parts))
        else:
            text = shown(text)
        encoding = getattr(self.raw, "encoding", None) or "utf-8"
        self.raw.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    @property
    def rich_proxied_file(self) -> _Shown:
        """Where rich's consoles write, those of typer's help among them: their colours pass."""
        return _Shown(self.raw, colours=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def __iter__(self) -> Any:
        return iter(self.raw)
