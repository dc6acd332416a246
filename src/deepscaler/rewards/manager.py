"""The [reward] of a recipe at work: groups with verdicts in, groups with rewards out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.config.sections.reward import RewardPartSection, RewardSection
from deepscaler.protocols import Grader
from deepscaler.rewards.composition import composed, verdict_value
from deepscaler.rewards.facts import facts_of_group
from deepscaler.rewards.functions.pool import FunctionPool
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.rewards.scoring import item_of
from deepscaler.types import GradeItem, PartValue, ScoredGroup, WantedColumns


class RewardManager:
    """Composes rewards. `score` may be called from any thread, one call at a time or several.

    graders: of the parts that name another profile than the run's grader, by the part's name.
    """

    def __init__(
        self, section: RewardSection, pools: Mapping[str, FunctionPool], graders: Mapping[str, Grader]
    ) -> None:
        self._parts = section.all_parts
        self._weights = {part.name: part.weight for part in self._parts}
        self._threshold = section.solved_threshold
        self._pools, self._graders = pools, graders
        self._threads = ThreadPoolExecutor(max(1, len(self._parts)), thread_name_prefix="reward")

    @property
    def digests(self) -> dict[str, str]:
        """Part and function, as in `length (own.py:length)` -> SHA-256 (hex) of the function's source."""
        return {f"{name} ({Path(pool.function).name})": pool.digest for name, pool in self._pools.items()}

    @property
    def columns(self) -> WantedColumns:
        required = {column: name for name, pool in self._pools.items() for column in pool.required_columns}
        kept = [pool.columns for pool in self._pools.values()]
        if any(columns is None for columns in kept):
            return WantedColumns(required, None)
        return WantedColumns(required, frozenset(name for columns in kept for name in columns or ()))

    def score(self, groups: Sequence[ScoredGroup], *, thinking_prefilled: bool) -> list[ScoredGroup]:
        """The groups with what every completion earned. All parts are computed at the same time."""
        facts = [facts_of_group(group, thinking_prefilled=thinking_prefilled) for group in groups]
        values = list(self._threads.map(partial(self._values, groups, facts, thinking_prefilled), self._parts))
        return [
            replace(
                group,
                composed=tuple(
                    composed([part[number][index] for part in values], self._weights, verdict, self._threshold)
                    for index, verdict in enumerate(group.verdicts)
                ),
            )
            for number, group in enumerate(groups)
        ]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _values(
        self,
        groups: Sequence[ScoredGroup],
        facts: list[list[dict[str, object]]],
        prefilled: bool,
        part: RewardPartSection,
    ) -> list[list[PartValue]]:
        if part.name in self._pools:
            return self._pools[part.name](facts)
        if part.name not in self._graders:
            return [[verdict_value(part.name, verdict) for verdict in group.verdicts] for group in groups]
        items = [item for group in groups for item in _items(group, prefilled)]
        verdicts = iter(self._graders[part.name].grade(items))
        return [[verdict_value(part.name, next(verdicts)) for _ in group.texts] for group in groups]


@contextmanager
def open_reward(
    section: RewardSection, grader: GraderSection, folder: Path | None = None
) -> Iterator[RewardManager | None]:
    """The reward of a recipe, its functions imported and checked; None where the grader's verdict is the reward.

    folder: for what functions print and keep. Raises ValueError for a function that cannot be used.
    """
    if not section.all_parts:
        yield None
        return
    with ExitStack() as stack:
        pools: dict[str, FunctionPool] = {}
        graders: dict[str, Grader] = {}
        for part in section.all_parts:
            if part.function is not None:
                pools[part.name] = pool = FunctionPool(part, folder)
                stack.callback(pool.close)
                pool.open()
            elif part.profile != grader.profile:
                other = grader.model_copy(update={"profile": part.profile})
                graders[part.name] = stack.enter_context(make_grader(other))
        manager = RewardManager(section, pools, graders)
        stack.callback(manager.close)
        yield manager


def _items(group: ScoredGroup, prefilled: bool) -> Iterator[GradeItem]:
    problem = group.group.problem
    for rollout, text in zip(group.group.rollouts, group.texts, strict=True):
        yield item_of(problem, text, rollout.truncated, thinking_prefilled=prefilled)


def check_reward(section: RewardSection, grader: GraderSection) -> None:
    """Import every function once, before anything expensive begins. Raises ValueError for one that cannot be used."""
    with open_reward(section, grader):
        pass
