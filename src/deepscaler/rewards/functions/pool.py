"""A reward function in processes of its own, called for the completions of whole groups. Usable from any thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deepscaler.config.import_paths import BUILTIN, BUILTIN_REWARDS
from deepscaler.config.sections.reward import RewardPartSection
from deepscaler.own_code import digest_of
from deepscaler.rewards.functions.loading import BATCHED, OFFERED
from deepscaler.rewards.functions.process import Description, FunctionProcess
from deepscaler.rewards.functions.worker import FunctionSpec
from deepscaler.types import PartValue

ASYNC_ITEMS = 256  # of one request to a coroutine function, which waits for many at once
JUDGE_KEY = "api_key_env"  # argument of a built-in that names an environment variable


class FunctionPool:
    """Its processes are started by `open`, and replaced when they die. Belongs to the process that made it.

    folder: for what the function prints and keeps (`rewards/` of a run directory); None: nowhere.
    """

    def __init__(self, section: RewardPartSection, folder: Path | None = None) -> None:
        assert section.function is not None
        self.name = section.name
        self.function = section.function
        self._closing = threading.Event()
        self._arguments = section.arguments
        spec = spec_of(section)
        key = section.arguments.get(JUDGE_KEY)
        environment = (*section.environment, *([key] if isinstance(key, str) else []))
        self._all = [
            FunctionProcess(self.name, spec, environment=environment, folder=folder, closing=self._closing)
            for _ in range(section.workers)
        ]
        self._idle: queue.SimpleQueue[FunctionProcess] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(section.workers, thread_name_prefix=f"reward-{self.name}")
        self._description: Description | None = None

    def open(self) -> Description:
        """Import the function in every process. Raises FunctionError, a ValueError, for one that cannot be used."""
        if self._description is None:
            descriptions = [process.describe() for process in self._all]
            self._description = descriptions[0]
            for process in self._all:
                self._idle.put(process)
        return self._description

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the name in its module and the files that it was imported from."""
        return digest_of(self.function.rpartition(":")[2], self.open().sources)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns of the data that a call fails without."""
        return tuple(name for name, required in self._columns().items() if required)

    @property
    def columns(self) -> frozenset[str] | None:
        """Columns of the data that the function takes; None: all of them."""
        return None if self.open().takes_any else frozenset(self._columns())

    def __call__(self, groups: Sequence[Sequence[Mapping[str, object]]]) -> list[list[PartValue]]:
        """Per group one value per completion. groups: what is known of each completion, by name."""
        self.open()
        requests = self._requests([[self._asked(facts) for facts in group] for group in groups])
        values = iter([value for found in self._threads.map(self._call, requests) for value in found])
        return [[next(values) for _ in group] for group in groups]

    def close(self) -> None:
        self._closing.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._all:
            process.kill()

    def _columns(self) -> dict[str, bool]:
        ours = (*OFFERED, *BATCHED)
        return {name: required for name, required in self.open().wanted.items() if name not in ours}

    def _asked(self, facts: Mapping[str, object]) -> Mapping[str, object]:
        """What of the facts the function takes."""
        description = self.open()
        if description.takes_any:
            return {name: value for name, value in facts.items() if name not in self._arguments}
        names = {BATCHED.get(name, name) for name in description.wanted}
        return {name: value for name, value in facts.items() if name in names}

    def _requests(self, groups: list[list[Mapping[str, object]]]) -> list[list[Mapping[str, object]]]:
        """A group for a function of lists, many completions for a coroutine function, else one."""
        description = self.open()
        if description.batched:
            return groups
        items = [item for group in groups for item in group]
        size = ASYNC_ITEMS if description.is_async else 1
        return [items[start : start + size] for start in range(0, len(items), size)]

    def _call(self, items: Sequence[Mapping[str, object]]) -> list[PartValue]:
        process = self._idle.get()
        try:
            return process.call(items)
        finally:
            self._idle.put(process)


def spec_of(section: RewardPartSection) -> FunctionSpec:
    assert section.function is not None
    builtin = section.function in BUILTIN_REWARDS
    return FunctionSpec(
        path=f"{BUILTIN}.{section.function}:reward" if builtin else section.function,
        arguments=section.arguments,
        wall_s=section.wall_s,
        cpu_s=section.cpu_s,
        memory_mib=section.memory_mib,
        network=section.network or section.function == "judge",
    )
