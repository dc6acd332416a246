"""Stop conditions: stop tokens, and stop strings in the text of a completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.types import SamplingParams

Decode = Callable[[Any], str]
# Tokens decoded in front of those that can contain a stop string: some decoders change the first tokens of a text.
CONTEXT_TOKENS = 4


def plain_decode(tokenizer: Any) -> Decode:
    """Decoder of ids to text that keeps special tokens; it can be pickled."""
    return partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def has_stops(params: SamplingParams) -> bool:
    """Whether a request names stop tokens or stop strings, beside the stop tokens of the engine."""
    return bool(params.stop_token_ids or params.stop)


class StopConditions:
    """Stop tokens of an engine, with those of each request. decode: needed for stop strings only."""

    def __init__(self, stop_ids: Iterable[int], decode: Decode | None = None) -> None:
        self.ids = np.array(sorted(stop_ids), dtype=np.int64)
        self._decode = decode

    def check(self, params: SamplingParams) -> None:
        """Raises ValueError for a stop string that cannot be matched."""
        if params.stop and (self._decode is None or "" in params.stop):
            why = "it is empty" if "" in params.stop else "this engine was started without a tokenizer"
            raise ValueError(f"cannot end completions at {params.stop[0]!r}: {why}; name stop_token_ids instead")

    def is_stopped(self, tokens: NDArray[np.int32], params: SamplingParams) -> bool:
        """Whether the last of a completion's `tokens` meets a stop condition of the request.

        Only the tail is decoded: every token is at least one byte of text, so a stop string that the last token
        completes spans at most as many tokens as it has bytes.
        """
        if int(tokens[-1]) in params.stop_token_ids:
            return True
        if not params.stop:
            return False
        assert self._decode is not None
        tail = CONTEXT_TOKENS + max(len(text.encode("utf-8", "surrogatepass")) for text in params.stop)
        text = self._decode(tokens[-tail:])
        return any(stop in text for stop in params.stop)
