"""An endless, shuffled, resumable stream of problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepscaler.randomness import generator
from deepscaler.types import Problem


class ProblemStream:
    """The order of an epoch is a function of (seed, tag, epoch) alone, so a position is all there is to save.

    Epochs follow each other without a gap: a step at the seam takes the rest of one and the start of the next,
    instead of dropping the rest as the original did.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        if not problems:
            raise ValueError("there are no problems to train on")
        self._problems = list(problems)
        self._seed = seed
        self._tag = ""
        self.position = 0
        self._epoch = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems."""
        taken = []
        for position in range(self.position, self.position + count):
            epoch, index = divmod(position, len(self._problems))
            if epoch != self._epoch:
                rng = generator("order", self._seed, self._tag, epoch)
                self._order = rng.permutation(len(self._problems)).tolist()
                self._epoch = epoch
            taken.append(self._problems[self._order[index]])
        self.position += count
        return taken

    def reshuffle(self, tag: str) -> None:
        """Start over in a new order, named by `tag`, as a stage that restarts cold does."""
        self._tag, self.position, self._epoch = tag, 0, -1

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "tag": self._tag, "num_problems": len(self._problems)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the stream was saved over another number of problems."""
        if state["num_problems"] != len(self._problems):
            raise ValueError(
                f"the checkpoint was made with {state['num_problems']} training problems, now there are "
                f"{len(self._problems)}; put the data back as it was, or start a new run directory"
            )
        self._tag, self.position, self._epoch = state["tag"], state["position"], -1
