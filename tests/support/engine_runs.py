"""Generations of the tiny model by key, to hold one engine against another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.types import Request, Rollout, SamplingParams

PARAMS = SamplingParams(max_completion_tokens=90, temperature=0.9, seed=5)


def requests(count: int, samples: int = 4) -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 20 + 7 * (i % 3)).astype(np.int32), samples) for i in range(count)]


def run(engine: TorchEngine, wanted: list[Request], params: SamplingParams = PARAMS) -> dict[tuple, Rollout]:
    return {(r.problem_id, r.sample_index): r for r in engine.generate(wanted, params)}


def assert_equal(found: dict[tuple, Rollout], expected: dict[tuple, Rollout]) -> None:
    assert found.keys() == expected.keys()
    for key, rollout in found.items():
        np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)
        np.testing.assert_allclose(rollout.rollout_logprobs, expected[key].rollout_logprobs, atol=2e-5)


def letters(ids: Iterable[int]) -> str:
    """Two letters for a token: `aa`, `ab`, …"""
    return "".join(chr(97 + int(i) // 26) + chr(97 + int(i) % 26) for i in ids)


def first_end(text: str, stops: tuple[str, ...]) -> int | None:
    """Tokens until a stop string is complete."""
    ends = [n for n in range(1, len(text) // 2 + 1) if any(s in text[: 2 * n] for s in stops)]
    return ends[0] if ends else None
