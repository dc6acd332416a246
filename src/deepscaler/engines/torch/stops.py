"""What ends a completion before its budget: stop tokens, and stop strings in its text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.types import SamplingParams

Decode = Callable[[Any], str]
# Tokens decoded before those that can hold a stop string: some decoders change the first ones of a text.
CONTEXT_TOKENS = 4


def plain_decode(tokenizer: Any) -> Decode:
    """ids -> text with special tokens written out; can be handed to another process."""
    return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def has_own(params: SamplingParams) -> bool:
    """Whether a request stops at more than its engine's stop tokens."""
    return bool(params.stop_token_ids or params.stop)


class Stops:
    """The stop tokens of an engine, and those of a request. decode: needed for stop strings only."""

    def __init__(self, stop_ids: Iterable[int], decode: Decode | None = None) -> None:
        self.ids = np.array(sorted(stop_ids), dtype=np.int64)
        self._decode = decode

    def check(self, params: SamplingParams) -> None:
        """Raises ValueError for a stop string that could never be found."""
        if params.stop and (self._decode is None or "" in params.stop):
            why = "it is empty" if "" in params.stop else "this engine was started without a tokenizer"
            raise ValueError(f"cannot end completions at {params.stop[0]!r}: {why}; name stop_token_ids instead")

    def ended(self, tokens: NDArray[np.int32], params: SamplingParams) -> bool:
        """Whether the newest of a completion's `tokens` ends it, by what the request asks for.

        Only the tail is decoded: every token is at least one byte of text, so a stop string that the newest token
        completes lies within as many tokens as it has bytes.
        """
        if int(tokens[-1]) in params.stop_token_ids:
            return True
        if not params.stop:
            return False
        assert self._decode is not None
        tail = CONTEXT_TOKENS + max(len(text.encode("utf-8", "surrogatepass")) for text in params.stop)
        text = self._decode(tokens[-tail:])
        return any(stop in text for stop in params.stop)
