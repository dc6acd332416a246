"""A position in a sequence of tokens, with the token there and the depth of its brackets."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.answers.tokens.lexer import Token, UnreadableError
from deepscaler.answers.trees import split_letters

MAX_DEPTH = 120


class Cursor:
    """What a recursive-descent parser reads from. `bars` counts the open `|` at the present depth."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = split_letters(tokens)
        self.position = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> Token | None:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def value(self, ahead: int = 0) -> str:
        """The sign or command there; "" for anything else."""
        index = self.position + ahead  # as `peek`, without a call: this is asked at every step
        if index >= len(self.tokens):
            return ""
        token = self.tokens[index]
        return token.value if token.kind in ("sign", "cmd") else ""

    def accept(self, value: str) -> bool:
        """Step over the sign or command, if it is the next one."""
        found = self.value() == value
        self.position += found
        return found

    def take(self, value: str) -> None:
        """Step over it; raises UnreadableError for any other token."""
        if not self.accept(value):
            found = self.peek()
            raise UnreadableError(f"expected {value!r}, found {found.value if found else 'the end'!r}")

    def deeper(self) -> None:
        """One level more; raises UnreadableError beyond MAX_DEPTH. The caller takes it back from `depth`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
