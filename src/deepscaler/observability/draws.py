"""Whether a problem that comes up again gets new completions: draws must depend on the step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepscaler.types import Rollout, ScoredGroup

PREFIX_TOKENS = 32  # compared: far enough to differ, short enough that an update leaves some alike
MAX_PROBLEMS = 256  # remembered: the first ones met, whatever the size of the data
MAX_SAMPLES = 16  # of each


@dataclass(frozen=True, slots=True)
class Repeats:
    """Completions with the same sample index as one of the problem's visit before: how many there were, how many
    began with the same tokens, and how many would have by chance, judged by those with different indices."""

    num_compared: int = 0
    num_repeated: int = 0
    by_chance: float = 0.0


class DrawMemory:
    """Remembers how the completions of some problems began. State is JSON and exact."""

    def __init__(self) -> None:
        self._seen: dict[str, list[str]] = {}

    def compare(self, groups: Sequence[ScoredGroup]) -> Repeats:
        """Against the visits before this step, whose completions then take their place."""
        compared, repeated, by_chance = 0, 0, 0.0
        for group in groups:
            rollouts = group.group.rollouts[:MAX_SAMPLES]
            name = group.group.problem.id
            if rollouts[0].sample_index or not (name in self._seen or len(self._seen) < MAX_PROBLEMS):
                continue  # a second group of the same step, or one problem too many
            new, old = [_beginning(r) for r in rollouts], self._seen.get(name, [])
            self._seen[name] = new
            size = min(len(new), len(old))
            if size < 2:
                continue
            same = sum(a == b for a, b in zip(new, old, strict=False))
            crossed = sum(a == b for a in new[:size] for b in old[:size]) - same
            compared, repeated, by_chance = compared + size, repeated + same, by_chance + crossed / (size - 1)
        return Repeats(compared, repeated, by_chance)

    def state_dict(self) -> dict[str, Any]:
        return {name: list(beginnings) for name, beginnings in self._seen.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen = {name: list(beginnings) for name, beginnings in state.items()}


def _beginning(rollout: Rollout) -> str:
    return hashlib.blake2b(rollout.completion_ids[:PREFIX_TOKENS].tobytes(), digest_size=4).hexdigest()
