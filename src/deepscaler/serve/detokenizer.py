"""Incremental detokenization: holds back text that a later token could change or a stop string could truncate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # replacement character, for an incomplete UTF-8 sequence


class Detokenizer:
    """Detokenizer of one completion. `push` takes all tokens so far and returns the new text that is final."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._held = max((len(s) for s in stops), default=1) - 1
        self._start = self._read = 0  # tokens before `_read` are in the text; decoding starts at `_start`
        self._shown = 0
        self.text = ""
        self.stopped = False

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """tokens: without a stop token at the end. `last`: no more tokens, so nothing is held back."""
        if self.stopped:
            return ""
        # Tokens decode differently at the beginning of a text, so decode a few known ones in front of the new ones.
        known, text = self._decode(tokens[self._start : self._read]), self._decode(tokens[self._start :])
        if last or not text.endswith(UNFINISHED):
            self._start, self._read = self._read, len(tokens)
            self._append(text[len(known) :])
        safe = len(self.text) if last or self.stopped else max(self._shown, len(self.text) - self._held)
        new, self._shown = self.text[self._shown : safe], safe
        return new

    def _append(self, new: str) -> None:
        begin = max(0, len(self.text) - self._held)
        self.text += new
        found = [at for stop in self._stops if (at := self.text.find(stop, begin)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True


class ReasoningParser:
    """Splits a stream of text at `</think>` into reasoning and content; without `thinking` all of it is content."""

    CLOSE = "</think>"

    def __init__(self, *, thinking: bool) -> None:
        self._thinking = thinking
        self._pending = ""

    def push(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """New (reasoning, content) that no later text can change."""
        if not self._thinking:
            return "", text
        self._pending += text
        before, tag, after = self._pending.partition(self.CLOSE)
        if tag:
            self._thinking, self._pending = False, ""
            return before, after
        keep = 0 if last else len(self.CLOSE) - 1
        end = max(0, len(self._pending) - keep)
        shown, self._pending = self._pending[:end], self._pending[end:]
        return shown, ""
