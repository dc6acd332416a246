"""Keyed randomness: every draw is a function of what it is for, never of what was drawn before.

numpy's Philox4x64 is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
key and counter give the numbers, so streams need no state to save and do not depend on batching or restarts.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def key_of(*parts: int | str) -> NDArray[np.uint64]:
    """128-bit key, uint64 [2], from any sequence of integers and strings."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)


def generator(*parts: int | str) -> np.random.Generator:
    """A generator whose whole stream is a function of `parts`."""
    return np.random.Generator(np.random.Philox(key=key_of(*parts)))


def uniforms(key: NDArray[np.uint64], block: int, size: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), float64 [size]: block `block` of the stream of `key`; size <= 2**34."""
    bits = np.random.Philox(key=key, counter=[0, block, 0, 0])
    return np.random.Generator(bits).random(size)
