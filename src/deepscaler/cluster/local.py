"""The local construction: learner, sampler and grader on one machine, no cluster software."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.life_signs import wait_limits
from deepscaler.cluster.model_directory import ModelDirectory
from deepscaler.cluster.processes import divided, num_processes, sharded_sampler, start_helpers
from deepscaler.cluster.replica import SharedReplica
from deepscaler.cluster.weight_copy import open_copy_sampler
from deepscaler.config import Recipe
from deepscaler.config.evaluation import rollout_engine
from deepscaler.engines.registry import Report, load_engine, print_note
from deepscaler.engines.sizing import DTYPES
from deepscaler.engines.torch.stops import plain_decode
from deepscaler.protocols import Cluster, Sampler
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.replica import adamw, policy_computer
from deepscaler.types import SamplingParams

WORKERS = "workers"  # below the run's directory: standard error and stacks of every worker


@dataclass(frozen=True, slots=True)
class PolicyFiles:
    """The model that a run begins with, before its weights are loaded.

    stop_ids: every token that ends a completion. longest: tokens of the run's longest sequence, prompt included.
    """

    files: ModelDirectory
    stop_ids: frozenset[int]
    longest: int

    def load(self, dtype: torch.dtype) -> nn.Module:
        return self.files.load(self.longest, dtype)

    def load_on_meta(self) -> nn.Module:
        """float32 and without weights, for ranks that read their part of `files.path`; with them where they cannot."""
        return self.files.load(self.longest, torch.float32, on_meta=True)


@contextmanager
def open_local(recipe: Recipe, policy: PolicyFiles, run_dir: Path) -> Iterator[Cluster]:
    """The learner keeps float32 weights. The torch engine samples from these, or from a bfloat16 copy of its own.

    Where sampling and updating overlap (`rollout.max_policy_lag`), and with adapters (`model.lora`), it samples from a
    copy, in processes of its own.
    run_dir: processes write their standard error below it; an engine with processes of its own also published weights.
    """
    computer = policy_computer(policy.load(torch.float32), recipe)
    is_torch, overlaps = recipe.rollout.engine == "torch", recipe.rollout.max_policy_lag > 0
    merges = recipe.model.lora.rank > 0  # the engine gets a copy into which adapters are merged
    samples_from_them = is_torch and not overlaps and not merges and recipe.model.dtype == "float32"
    count = num_processes(recipe.training.processes, policy.files.device) if recipe.model.dtype == "float32" else 1
    settings = divided(engine_settings(recipe, policy), count)
    notices: deque[str] = deque()
    with ExitStack() as stack:
        starting = start_helpers(
            computer,
            settings if samples_from_them else None,
            count - 1,
            report=notices.append,
            limits=wait_limits(recipe.cluster),
            logs=run_dir / WORKERS,
        )
        helpers = stack.enter_context(starting)
        if samples_from_them:
            sampler: Sampler = sharded_sampler(computer, settings, helpers, notices.append)
        elif is_torch and (overlaps or (merges and count > 1)):
            copy = policy.load(DTYPES[recipe.model.dtype])
            opened = open_copy_sampler(
                copy, settings, count, notices.append, limits=wait_limits(recipe.cluster), logs=run_dir / WORKERS
            )
            sampler = stack.enter_context(opened)
        elif is_torch:
            sampler = settings.start(policy.load(DTYPES[recipe.model.dtype]))
        else:
            sampler = stack.enter_context(open_engine(recipe, policy, run_dir, notices.append))
        grader = stack.enter_context(make_grader(recipe.grader))
        replica = SharedReplica(computer, adamw(recipe.optimizer), helpers)
        learner = PolicyLearner(replica, recipe.algorithm, recipe.optimizer)
        yield Cluster(learner, sampler, grader, count, notices)


def engine_settings(recipe: Recipe, policy: PolicyFiles) -> EngineSettings:
    """Of all engines together, in whatever processes."""
    decode = plain_decode(policy.files.tokenizer)
    return EngineSettings(policy.stop_ids, recipe.rollout.max_active, decode, recipe.model.float32_head)


@contextmanager
def open_engine(recipe: Recipe, policy: PolicyFiles, run_dir: Path, report: Report = print_note) -> Iterator[Sampler]:
    """An engine that loads the model's files itself."""
    rollout = recipe.rollout
    params = SamplingParams(policy.longest, stop_token_ids=rollout.stop_token_ids, stop=rollout.stop)
    section = rollout_engine(recipe)
    opened = load_engine(rollout.engine).open(
        policy.files, section, capacity=policy.longest, params=params, run_dir=run_dir, report=report
    )
    with opened as (sampler, _):
        yield sampler
