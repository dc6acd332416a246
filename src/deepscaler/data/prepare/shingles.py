"""Word shingles and MinHash over them, in numpy: which problems may be near-duplicates, in time linear in their number.

Chosen over the datasketch library after measuring both (docs/decisions/0011-near-duplicates.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepscaler.data.prepare.normalize import NormalizedTexts

Hashes = NDArray[np.uint64]
Pairs = NDArray[np.int64]

# A pair of Jaccard similarity s shares a band with probability 1 - (1 - s^ROWS)^BANDS: 0.97 at 0.3, 0.9998 at 0.4.
BANDS, ROWS = 128, 3
# Problems of one pattern ("Find the greatest common divisor of ...") fill a bucket by the thousand. Inside a bucket,
# rows with the same numbers are neighbours, and each is compared with so many that follow.
WINDOW = 32
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_CHUNK = 20_000  # pairs compared at once
_BANDS_AT_ONCE = 16


@dataclass(frozen=True)
class Shingles:
    """Each problem's distinct shingles: hashes uint64, sorted within a problem; offsets int64 [num_problems + 1]."""

    hashes: Hashes
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def of(self, index: int) -> Hashes:
        return self.hashes[self.offsets[index] : self.offsets[index + 1]]

    def owners(self) -> NDArray[np.int64]:
        """The problem each hash belongs to, int64 [num_hashes]."""
        return np.repeat(np.arange(len(self)), self.sizes)


def mix(values: Hashes) -> Hashes:
    """SplitMix64's finaliser: a bijection of 64-bit integers whose output bits look independent."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def word_shingles(normalized: NormalizedTexts, width: int = 2) -> Shingles:
    """Every run of `width` consecutive tokens, hashed; a shorter problem is one shingle, an empty one none."""
    lengths = np.diff(normalized.offsets)
    tokens = mix(normalized.tokens.astype(np.uint64))
    owner = np.repeat(np.arange(len(normalized)), lengths)
    place = np.arange(len(tokens)) - np.repeat(normalized.offsets[:-1], lengths)
    rolled = np.zeros(len(tokens), np.uint64)
    for step in range(width):
        following = np.zeros_like(tokens)
        following[: len(tokens) - step] = tokens[step:]
        inside = place + step < np.repeat(lengths, lengths)
        rolled = mix(rolled ^ np.where(inside, following, np.uint64(0)))
    whole = (place + width <= np.repeat(lengths, lengths)) | (place == 0)
    return _distinct(owner[whole], rolled[whole], len(normalized))


def _distinct(owner: NDArray[np.int64], hashes: Hashes, count: int) -> Shingles:
    order = np.lexsort((hashes, owner))
    owner, hashes = owner[order], hashes[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    sizes = np.bincount(owner[first], minlength=count)
    return Shingles(hashes[first], np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def signatures(shingles: Shingles, count: int, seed: int) -> NDArray[np.uint32]:
    """MinHash signatures uint32 [num_problems, count]: position k holds the least of a random function of the shingles.

    Broder 1997, "On the resemblance and containment of documents". A problem without shingles gets its own values,
    so that it resembles none.
    """
    rng = np.random.default_rng(seed)
    factors = rng.integers(1, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    terms = rng.integers(0, 2**63, count, dtype=np.uint64)
    filled = np.flatnonzero(shingles.sizes)
    result = mix(
        np.arange(len(shingles), dtype=np.uint64)[:, None] * np.uint64(count) + np.arange(count, dtype=np.uint64)
    )
    result = (result >> np.uint64(32)).astype(np.uint32)
    starts = shingles.offsets[filled]
    for k in range(count):
        values = ((shingles.hashes * factors[k] + terms[k]) >> np.uint64(32)).astype(np.uint32)
        if len(starts):
            result[filled, k] = np.minimum.reduceat(values, starts)
    return result


def candidate_pairs(signature: NDArray[np.uint32], likeness: Hashes, floor: float) -> Pairs:
    """Pairs (i < j) int64 [num_pairs, 2] that share a band and agree in at least a share `floor` of the signature.

    likeness: uint64 [num_problems]; rows with equal values are next to each other in crowded buckets.
    """
    count = len(signature)
    found = np.empty(0, np.int64)
    for start in range(0, BANDS, _BANDS_AT_ONCE):
        bands = [signature[:, at * ROWS : (at + 1) * ROWS] for at in range(start, start + _BANDS_AT_ONCE)]
        found = distinct(np.concatenate([found, *(_band_pairs(band, likeness, count) for band in bands)]))
    left, right = found // count, found % count
    keep = np.concatenate(
        [
            (signature[left[at : at + _CHUNK]] == signature[right[at : at + _CHUNK]]).mean(axis=1) >= floor
            for at in range(0, len(found), _CHUNK)
        ]
        or [np.empty(0, bool)]
    )
    return np.stack([left[keep], right[keep]], axis=1)


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sorted distinct values. numpy 2.4's `unique` hashes: 190 times as long on a million integers."""
    values = np.sort(values)
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return values[first]


def _band_pairs(rows: NDArray[np.uint32], likeness: Hashes, count: int) -> NDArray[np.int64]:
    """Pairs of one band as i * count + j."""
    key = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        key = mix(key ^ column.astype(np.uint64))
    order = np.lexsort((likeness, key))
    key = key[order]
    pairs = []
    for step in range(1, WINDOW + 1):
        same = np.flatnonzero(key[step:] == key[:-step])
        if not len(same):
            break
        a, b = order[same], order[same + step]
        pairs.append(np.minimum(a, b) * count + np.maximum(a, b))
    return np.concatenate(pairs) if pairs else np.empty(0, np.int64)


def overlap(a: Hashes, b: Hashes) -> tuple[float, float]:
    """(Jaccard similarity, share of the smaller set found in the other) of two sorted sets; (0, 0) for an empty one."""
    if not len(a) or not len(b):
        return 0.0, 0.0
    if len(a) > len(b):
        a, b = b, a
    common = _in_common(a, b)
    return common / (len(a) + len(b) - common), common / len(a)


def share_of(part: Hashes, whole: Hashes) -> float:
    """Share of a sorted set that another one holds; 0 for an empty one."""
    return _in_common(part, whole) / len(part) if len(part) and len(whole) else 0.0


def _in_common(a: Hashes, b: Hashes) -> int:
    at = np.searchsorted(b, a)
    at[at == len(b)] = 0
    return int(np.count_nonzero(b[at] == a))
