"""What sampling and learning cost in the simulation of scaling.py: fits of figures measured on one GPU, and lengths.

The measurements are those of docs/benchmarks.md, "On a GPU": one NVIDIA H200, the 1.5B architecture of the recipe,
bfloat16, this program's own engine and learner. Every fit is a plain formula, and `fit_errors` says how far it is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# rows, tokens of context each, milliseconds of a decode step (CUDA graphs; the faster attention of the two measured)
DECODING = (
    (64, 1024, 6.2),
    (256, 1024, 10.9),
    (512, 1024, 17.2),
    (64, 8192, 13.0),
    (256, 8192, 42.6),
    (64, 24576, 26.9),
)
# tokens of a sequence, thousand tokens a second: forward and backward with checkpointing, chunked head, 32K micro-batch
LEARNING = ((8192, 21.7), (16384, 17.9), (24576, 16.3))
WITH_REFERENCE = 16.4  # thousand tokens a second of a whole update at 8K, with the pass over a KL reference
PUBLISH_S = 2.1  # publishing with both digests
OPTIMIZER_S = 0.02  # clipping and AdamW
MAX_ROWS = 256  # sequences decoded at once (rollout.max_active)
CACHE_TOKENS = 256 * 8192  # the largest cache that was measured to fit beside learner and reference


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds. A decode step takes step + row × rows + context × all tokens of context; learning a sequence of n tokens
    takes n × (token + pair × n).

    recompute: of one token of context, where interrupted completions continue with a new cache; 0 keeps the cache.
    """

    step: float
    row: float
    context: float
    token: float
    pair: float
    recompute: float
    publish: float = PUBLISH_S

    def learning(self, lengths: Floats) -> Floats:
        return lengths * (self.token + self.pair * lengths)


def measured() -> Costs:
    """Least squares of relative errors, decoding and learning each; the reference's pass multiplies learning."""
    rows, contexts, step_ms = (np.array(column, dtype=float) for column in zip(*DECODING, strict=True))
    decoding = _fit([np.ones_like(rows), rows, rows * contexts], step_ms / 1000)
    lengths, rates = (np.array(column, dtype=float) for column in zip(*LEARNING, strict=True))
    learning = _fit([np.ones_like(lengths), lengths], 1e-3 / rates)
    forward = 1e-3 / WITH_REFERENCE - 1e-3 / LEARNING[0][1]
    factor = LEARNING[0][1] / WITH_REFERENCE
    return Costs(*decoding, *(factor * each for each in learning), recompute=forward)


def _fit(columns: Sequence[Floats], values: Floats) -> list[float]:
    scaled = np.stack(columns, axis=1) / values[:, None]
    return np.linalg.lstsq(scaled, np.ones_like(values), rcond=None)[0].tolist()


def fit_errors(costs: Costs) -> dict[str, float]:
    """Largest relative error of the two fits."""
    decoding = [abs((costs.step + r * (costs.row + costs.context * c)) * 1000 / ms - 1) for r, c, ms in DECODING]
    factor = WITH_REFERENCE / LEARNING[0][1]
    learning = [abs(factor * (costs.token + costs.pair * n) * rate * 1000 - 1) for n, rate in LEARNING]
    return {"decoding": max(decoding), "learning": max(learning)}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of completions: lognormal with this median, and `at_cap` of them truncated at `cap`.

    alike: share of the variance of log-lengths that the completions of one prompt have in common.
    """

    median: float = 4000.0
    cap: int = 24576
    at_cap: float = 0.02
    alike: float = 0.5
    prompt: int = 150

    @property
    def sigma(self) -> float:
        return math.log(self.cap / self.median) / NormalDist().inv_cdf(1 - self.at_cap)

    def draw(self, rng: np.random.Generator, groups: int, group_size: int) -> Floats:
        """[groups, group_size] tokens, at least 1."""
        common = math.sqrt(self.alike) * rng.standard_normal((groups, 1))
        own = math.sqrt(1 - self.alike) * rng.standard_normal((groups, group_size))
        return np.clip(np.ceil(self.median * np.exp(self.sigma * (common + own))), 1, self.cap)


@dataclass(frozen=True, slots=True)
class Work:
    """GPU seconds that a step of these completions takes where no GPU ever waits.

    sampling: every engine always decodes `MAX_ROWS` sequences at their mean context, or as many as the cache holds.
    """

    sampling: float
    learning: float

    @property
    def total(self) -> float:
        return self.sampling + self.learning


def work_of(costs: Costs, lengths: Lengths, rollouts: int, seed: int = 0) -> Work:
    sample = lengths.draw(np.random.default_rng(seed), 100_000, 1)
    mean = float(sample.mean())
    context = lengths.prompt + float((sample**2).mean()) / (2 * mean)
    rows = min(float(MAX_ROWS), CACHE_TOKENS / context)
    per_token = costs.step / rows + costs.row + costs.context * context
    learning = float(costs.learning(sample + lengths.prompt).mean())
    return Work(rollouts * mean * per_token, rollouts * learning)
