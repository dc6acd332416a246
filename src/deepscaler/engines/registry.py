"""What an engine in this process declares, and its lookup by name: `engine.kind`, `rollout.engine`.

`config.parts.ENGINES` lists the engines. Each has an `Engine` in its own folder; it is imported when it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from deepscaler.config import parts
from deepscaler.config.evaluation import EngineSection
from deepscaler.observability.environment import package_versions
from deepscaler.protocols import Sampler
from deepscaler.types import SamplingParams

Decode = Callable[[Any], str]


class ModelFiles(Protocol):
    """What an engine is opened from: a model directory whose files were checked (`cluster.model_directory`).

    config: transformers' configuration. dtype: `float32` or `bfloat16`.
    """

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> str: ...

    def stop_ids(self, additional: Sequence[int] = ()) -> frozenset[int]:
        """Every token that ends a completion."""
        ...

    def decoder(self, stop_ids: frozenset[int], stop: Sequence[str] = ()) -> Decode:
        """Completion ids -> text, without what ended it."""
        ...

    def stopping_fingerprint(self) -> dict[str, object]: ...

    def load(self, longest: int) -> Any:
        """The model with its weights, for sequences of at most `longest` tokens."""
        ...

    def slots(self, *, capacity: int, most: int) -> int:
        """Sequences of `capacity` tokens that can be decoded at once, at most `most`."""
        ...


Report = Callable[[str], object]


def print_note(text: str) -> None:
    """On standard error."""
    print(f"note: {text}", file=sys.stderr, flush=True)


class Open(Protocol):
    """Starts the engine; it ends with the context.

    capacity: tokens of prompt and completion. params: what ends one. run_dir: of a training run, for logs and published
    weights. report: told what happens to processes of the engine, such as a restart.
    """

    def __call__(
        self,
        files: ModelFiles,
        engine: EngineSection,
        *,
        capacity: int,
        params: SamplingParams,
        run_dir: Path | None = None,
        report: Report = print_note,
    ) -> AbstractContextManager[tuple[Sampler, Decode]]: ...


@dataclass(frozen=True, slots=True)
class Engine:
    """fingerprint: what of the engine shapes a completion; raises ValueError where it cannot be used."""

    fingerprint: Callable[[ModelFiles, EngineSection], dict[str, object]]
    open: Open


def load_engine(name: str) -> Engine:
    """The engine of that name in `config.parts.ENGINES`."""
    engine = parts.load(parts.ENGINES[name].path)
    assert isinstance(engine, Engine)
    return engine


def engine_fingerprint(kind: str, files: ModelFiles, versions: Mapping[str, str] | None = None) -> dict[str, object]:
    """What of an engine shapes a completion: the settings of `EngineSection` that do, resolved, and its environment.

    versions: of packages beside ours, torch and transformers.
    """
    packages = {**(versions or {}), **package_versions(("deepscaler", "torch", "transformers"))}
    return {
        "kind": kind,
        "versions": packages,
        "dtype": files.dtype,
        "device": files.device.type,
        **files.stopping_fingerprint(),
    }
