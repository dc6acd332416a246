"""What may change when a run goes on: one list, which docs/recipes.md repeats and a test compares.

A `*` in a key stands for the number of an entry. A key stands for everything below it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from deepscaler.config.layers import flat
from deepscaler.config.models import Recipe

# They change no training step: neither its completions, nor its verdicts, nor its update. `preset` is here because
# the values it stands for are written out in [algorithm] and compared there.
FREE = (
    "name",
    "description",
    "preset",
    "num_steps",
    "checkpoint",
    "alarms",
    "grader.workers",
    "evaluation.num_samples",
    "evaluation.temperature",
    "evaluation.top_p",
    "evaluation.top_k",
    "evaluation.max_completion_tokens",
    "evaluation.every_steps",
    "evaluation.during_training_samples",
    "evaluation.benchmarks",
    "evaluation.benchmarks_dir",
    "evaluation.validation_files",
    "data.raw_sources",
    "data.benchmarks",
    "data.validation_frac",
)

# They change the order in which sums are rounded and nothing else: what runs out of memory or gets other cores may
# go on with other values, and says that it is no longer equal bit by bit.
ROUNDING = (
    "cluster",
    "training.processes",
    "training.tokens_per_micro_batch",
    "training.logprob_chunk_tokens",
    "rollout.max_active",
    "model.activation_checkpointing",
)

# They say where something is. What is there decides: the checkpoint holds digests of the base model and the problems.
BY_CONTENT = (
    "model.path",
    "model.revision",
    "sft.output",
    "data.source",
    "data.prompt_field",
    "data.answer_field",
    "data.sources.*.path",
    "data.sources.*.prompt_field",
    "data.sources.*.answer_field",
)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 (hex) over canonical JSON of every setting that may not change when a run goes on."""
    values = {key: value for key, value in flat(recipe.model_dump(mode="json")) if not may_change(key)}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys, sorted, that may not change on resume but differ.

    old, new: `recipe.model_dump(mode="json")`, as kept in a run's recipe.json.
    """
    return [key for key in _differing(old, new) if not may_change(key)]


def changed_rounding(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys, sorted, that differ and change rounding only."""
    return [key for key in _differing(old, new) if _in(key, ROUNDING)]


def value_of(recipe: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in a dumped recipe, None where it has no such key."""
    return dict(flat(recipe)).get(key)


def may_change(key: str) -> bool:
    return _in(key, (*FREE, *ROUNDING, *BY_CONTENT))


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = dict(flat(old)), dict(flat(new))
    absent = object()
    return sorted(k for k in before.keys() | after.keys() if before.get(k, absent) != after.get(k, absent))


def _in(key: str, listed: Iterable[str]) -> bool:
    parts = key.split(".")
    return any(_covers(pattern.split("."), parts) for pattern in listed)


def _covers(pattern: list[str], parts: list[str]) -> bool:
    head = parts[: len(pattern)]
    return len(head) == len(pattern) and all(
        wanted == part or (wanted == "*" and part.isdecimal()) for wanted, part in zip(pattern, head, strict=True)
    )
