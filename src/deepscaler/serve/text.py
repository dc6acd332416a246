"""From token ids to text as they come: nothing is shown that a later token could change or a stop string cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # how tokenizers decode the first bytes of a character whose last ones are not there yet


class TextStream:
    """The text of one completion. `push` takes all tokens so far and gives what is safe to show now."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._held = max((len(s) for s in stops), default=1) - 1
        self._start = self._read = 0  # tokens before `_read` are in the text; decoding goes on from `_start`
        self._shown = 0
        self.text = ""
        self.stopped = False

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """tokens: without a stop token at the end. `last`: none will follow, so nothing is held back any longer."""
        if self.stopped:
            return ""
        # Tokens decode differently at the beginning of a text, so a few that are known already go before the new ones.
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


class ThoughtSplitter:
    """Splits a stream of text at `</think>` into reasoning and content; without `thinking` all of it is content."""

    CLOSE = "</think>"

    def __init__(self, *, thinking: bool) -> None:
        self._thinking = thinking
        self._pending = ""

    def push(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """(reasoning, content) to show now."""
        if not self._thinking:
            return "", text
        self._pending += text
        before, tag, after = self._pending.partition(self.CLOSE)
        if tag:
            self._thinking, self._pending = False, ""
            return before, after
        keep = 0 if last else len(self.CLOSE) - 1
        cut = max(0, len(self._pending) - keep)
        shown, self._pending = self._pending[:cut], self._pending[cut:]
        return shown, ""
