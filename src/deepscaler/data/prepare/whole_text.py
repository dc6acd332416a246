"""Which texts begin inside which others, letter by letter: found by a rolling hash, in one pass over the letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from deepscaler.data.prepare.shingles import Hashes, mix

WIDTH = 16  # letters that are looked up; a shorter text is not sought
_CHUNK_ROWS = 1000


def beginnings(texts: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(text, part) of all pairs where the first WIDTH letters of the part occur in the text, by text."""
    sought = [number for number, part in enumerate(parts) if len(part) >= WIDTH]
    if not sought:
        return
    heads = np.concatenate([_hashes(_codes(parts[number][:WIDTH])) for number in sought])
    order = np.argsort(heads, kind="stable")
    heads, owners = heads[order], np.array(sought)[order]
    for start in range(0, len(texts), _CHUNK_ROWS):
        some = texts[start : start + _CHUNK_ROWS]
        hashes = _hashes(_codes("".join(some)))
        low, high = np.searchsorted(heads, hashes, "left"), np.searchsorted(heads, hashes, "right")
        ends = np.cumsum([len(text) for text in some])
        pairs = {
            (start + int(np.searchsorted(ends, place, "right")), int(part))
            for place in np.flatnonzero(high > low)
            for part in owners[low[place] : high[place]]
        }
        yield from sorted(pairs)


def _codes(text: str) -> NDArray[np.uint64]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)


def _hashes(codes: NDArray[np.uint64]) -> Hashes:
    """A hash of every run of WIDTH letters."""
    count = max(len(codes) - WIDTH + 1, 0)
    rolled = np.zeros(count, np.uint64)
    for step in range(WIDTH):
        rolled = mix(rolled ^ codes[step : step + count])
    return rolled
