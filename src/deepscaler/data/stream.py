"""An endless, shuffled, resumable stream of problems."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from deepscaler.data.mixture import Part, Rotation, StagePlan
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
from deepscaler.types import Problem

# A label, a worked solution and the difficulty shape neither prompt nor verdict; what a stage draws by difficulty is
# in the digest of the plans.
_SHAPING = tuple(f.name for f in fields(Problem) if f.name not in ("source", "solution", "difficulty", "pass_rate"))


@dataclass(frozen=True, slots=True)
class StageStart:
    """What a stage begins with. kept: sources of which too few problems would be left, so that none was dropped."""

    num_problems: int
    num_dropped: int
    kept: tuple[str, ...]


class ProblemStream:
    """The order of an epoch is a function of (seed, tag, epoch) alone, so a position is nearly all there is to save.

    Epochs follow each other without a gap: a step at the seam takes the rest of one and the start of the next,
    instead of dropping the rest as the original did. Of several sources each has epochs of its own, and they take
    turns by weight (`Rotation`). What a stage draws from is its plan less the problems that were solved when it
    began; a stage that draws from something else than the one before it starts in a new order.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, plans: Sequence[StagePlan] = ()) -> None:
        if not problems:
            raise ValueError("there are no problems to train on")
        self._problems = list(problems)
        self._seed = seed
        everything = StagePlan("", (Part("", 1.0, tuple(range(len(problems)))),))
        self._plans = tuple(plans) or (everything,)
        self._index = {problem.id: index for index, problem in enumerate(problems)}
        self._tracks_solved = any(plan.drop_solved for plan in self._plans)
        self._solved = np.zeros(len(problems), dtype=bool)  # all completions of the latest group were right
        self._dropped = np.zeros(len(problems), dtype=bool)  # left out of this stage
        self._tag = ""
        self._stage = 0
        self._restart(0)

    @property
    def num_problems(self) -> int:
        """Those the stage draws from."""
        return sum(len(indices) for _, indices in self._parts)

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems."""
        taken = []
        for _ in range(count):
            part, draw = self._rotation.next()
            taken.append(self._problems[self._pick(part, draw)])
        self.position += count
        return taken

    def fork(self) -> ProblemStream:
        """Another stream at this position: what it takes is not taken from this one. Only for `take`."""
        twin = copy(self)
        twin._restart(self.position)
        return twin

    def note(self, problem_id: str, *, solved: bool) -> None:
        """Remember how the problem's latest group went, where a stage of the recipe wants to know."""
        if self._tracks_solved:
            self._solved[self._index[problem_id]] = solved

    def begin_stage(self, stage: int, *, reshuffle: bool) -> StageStart:
        """Draw by the plan of stage number `stage` from here on."""
        plan, before = self._plans[stage], self._plans[self._stage]
        dropped, kept = self._to_drop(plan)
        changed = plan.parts != before.parts or not np.array_equal(dropped, self._dropped)
        self._stage, self._dropped = stage, dropped
        if reshuffle or changed:
            self.reshuffle(plan.name)
        return StageStart(plan.num_problems - int(dropped.sum()), int(dropped.sum()), kept)

    def reshuffle(self, tag: str) -> None:
        """Start over in a new order, named by `tag`, as a stage that restarts cold does."""
        self._tag = tag
        self._restart(0)

    def state_dict(self) -> dict[str, Any]:
        """JSON; with solved problems tracked, two bits per problem."""
        return {
            "position": self.position,
            "tag": self._tag,
            "num_problems": len(self._problems),
            "problems": self._problems_digest,
            "plans": self._plans_digest,
            "stage": self._stage,
            "solved": _pack(self._solved),
            "dropped": _pack(self._dropped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError as `check_same` does."""
        self.check_same(state)
        self._tag, self._stage = state["tag"], state["stage"]
        self._solved = _unpack(state["solved"], len(self._problems))
        self._dropped = _unpack(state["dropped"], len(self._problems))
        self._restart(state["position"])

    def continue_from(self, state: dict[str, Any], stage: int) -> None:
        """Go on from another run's position, whose stages may have drawn from other problems than stage `stage` does.

        Raises ValueError when it was saved over other problems.
        """
        self.check_problems(state)
        self._tag, self._stage = state["tag"], stage
        self._solved = _unpack(state["solved"], len(self._problems))
        if state["plans"] == self._plans_digest:
            self._dropped = _unpack(state["dropped"], len(self._problems))
        else:
            self._dropped, _ = self._to_drop(self._plans[stage])
        self._restart(state["position"])

    def check_same(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the state was saved over other problems, or stages that drew from others of them."""
        self.check_problems(state)
        if state["plans"] != self._plans_digest:
            raise ValueError(
                "the stages draw from other problems than before, although the problems are the same: their difficulty "
                "or the length of their prompts (tokenizer, chat template) changed; put these back as they were"
            )

    def check_problems(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the state was saved over other problems than this stream has."""
        if state["num_problems"] != len(self._problems):
            raise ValueError(
                f"the checkpoint was made with {counted(state['num_problems'], 'training problem')}, now there are "
                f"{len(self._problems)}; put the data back as it was, or start a new run directory"
            )
        if state["problems"] != self._problems_digest:
            raise ValueError(
                f"the checkpoint was made with {counted(len(self._problems), 'training problem')} as well, but other "
                "ones or in another order, or their texts, answers or tolerances changed; put the data back as it "
                "was, or start a new run directory"
            )

    def _restart(self, position: int) -> None:
        """Move to `position` of the order that tag, stage and dropped problems make."""
        self.position = position
        parts = self._plans[self._stage].parts
        self._parts = [(part.name, [i for i in part.indices if not self._dropped[i]]) for part in parts]
        self._rotation = Rotation([part.weight for part in parts], position)
        self._epochs: list[tuple[int, list[int]]] = [(-1, [])] * len(parts)

    def _pick(self, part: int, draw: int) -> int:
        """The problem of a part's draw number `draw`, both counted from 0."""
        name, indices = self._parts[part]
        epoch, place = divmod(draw, len(indices))
        if self._epochs[part][0] != epoch:
            key = ("order", self._seed, self._tag, *([name] if len(self._parts) > 1 else []), epoch)
            self._epochs[part] = epoch, generator(*key).permutation(len(indices)).tolist()
        return indices[self._epochs[part][1][place]]

    def _to_drop(self, plan: StagePlan) -> tuple[np.ndarray, tuple[str, ...]]:
        """(solved problems to leave out, bool [num_problems]; parts that are too small to lose theirs)."""
        dropped, kept = np.zeros_like(self._solved), []
        for part in plan.parts if plan.drop_solved else ():
            solved = [i for i in part.indices if self._solved[i]]
            if len(part.indices) - len(solved) >= part.min_left:
                dropped[solved] = True
            elif solved:
                kept.append(part.name)
        return dropped, tuple(kept)

    @cached_property
    def _problems_digest(self) -> str:
        """Of everything about the problems that shapes a prompt or a verdict, in their order."""
        rows = (json.dumps([getattr(problem, name) for name in _SHAPING], default=repr) for problem in self._problems)
        return _digest("\n".join(rows))

    @cached_property
    def _plans_digest(self) -> str:
        """Of which problems each stage draws."""
        return _digest(json.dumps([[(part.name, part.indices) for part in plan.parts] for plan in self._plans]))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _pack(flags: np.ndarray) -> str:
    """Bits as base64; empty when none is set."""
    return base64.b64encode(np.packbits(flags).tobytes()).decode() if flags.any() else ""


def _unpack(text: str, count: int) -> np.ndarray:
    if not text:
        return np.zeros(count, dtype=bool)
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=count).astype(bool)
