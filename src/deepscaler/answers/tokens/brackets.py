"""Token sequences seen by their brackets: parts between separators, the bracket that closes another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deepscaler.answers.tokens.lexer import Token

Tokens = Sequence[Token]
OPENING, CLOSING = frozenset(["(", "[", "{", "\\{"]), frozenset([")", "]", "}", "\\}"])


def top_level(tokens: Tokens) -> Iterator[tuple[int, Token]]:
    r"""Index and token of everything outside brackets and `\begin…\end`. A bracket counts as inside itself.

    Any kind closes any, as half-open intervals need.
    """
    depth = environments = 0
    for index, token in enumerate(tokens):
        if token.kind == "sign":
            depth += (token.value in OPENING) - (token.value in CLOSING)
        elif token.kind == "cmd":
            environments += (token.value == "begin") - (token.value == "end")
        if depth == 0 and environments == 0:
            yield index, token


def split(tokens: Tokens, separates: Callable[[Token], bool]) -> list[Tokens]:
    """The parts between the separators outside brackets."""
    cuts = [index for index, token in top_level(tokens) if separates(token)]
    if not cuts:
        return [tokens]
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(tokens)]
    return [tokens[start:end] for start, end in zip(starts, ends, strict=True)]


def closing(tokens: Tokens, start: int) -> int:
    """Index of the bracket that closes the one at `start`; -1 for none."""
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].kind == "sign":
            if tokens[index].value in OPENING:
                depth += 1
            elif tokens[index].value in CLOSING:
                depth -= 1
                if depth == 0:
                    return index
    return -1


def is_sign(token: Token, *values: str) -> bool:
    return token.kind in ("sign", "cmd") and token.value in values
