"""How completions are sampled in training, and where the workers of a run are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deepscaler.config.parts import ClusterKind, EngineName
from deepscaler.config.sections.vllm_servers import VllmServersSection
from deepscaler.config.setting import Section, setting

TokenId = Annotated[int, Field(ge=0)]
StopString = Annotated[str, Field(min_length=1)]


class RolloutSection(VllmServersSection):
    engine: EngineName = setting(
        "torch",
        shapes="samples",
        added=True,
        doc="torch = this program's own; vllm, where it is installed, and vllm_server have a copy of the weights",
    )
    prompts_per_step: int = setting(unit="prompts", shapes="samples", doc="groups per step", gt=0)
    group_size: int = setting(
        unit="completions", shapes="samples", doc="completions per prompt; a stage may override it", gt=1
    )
    temperature: float = setting(
        1.0, shapes="samples", doc="sampling temperature; the loss divides logits by the same", gt=0
    )
    top_p: float = setting(1.0, shapes="samples", doc="nucleus; 1 = off", gt=0, le=1)
    top_k: int = setting(0, shapes="samples", doc="0 = off", ge=0)
    max_active: int = setting(
        256,
        unit="sequences",
        shapes="samples",
        compared="rounding",
        doc="sequences decoded at once (cache slots)",
        gt=0,
    )
    max_policy_lag: int = setting(
        0,
        unit="versions",
        shapes="samples",
        added=True,
        doc="0 = sample and update in turns; n = sample while updating, with weights at most so many updates behind; "
        "from 2 on running completions go on under new weights",
        ge=0,
    )
    stop_token_ids: tuple[TokenId, ...] = setting(
        (),
        shapes="samples",
        doc="tokens that end a completion, beside EOS and the chat template's end of a turn; in evaluations as well",
    )
    stop: tuple[StopString, ...] = setting(
        (), shapes="samples", doc="texts that end a completion and are removed before grading; in evaluations as well"
    )


class ClusterSection(Section):
    """Where a run's workers are. Counts are of `kind = "ray"`; absent ones are one rank and one sampler on CPU."""

    kind: ClusterKind = setting(
        "local",
        shapes="update",
        compared="rounding",
        added=True,
        doc="local = this machine; torchrun = the ranks that torchrun started, which divide the learner among them; "
        "ray = actors placed by Ray, on this machine or on those of a Ray cluster",
    )
    learner_ranks: int | None = setting(
        None,
        unit="ranks",
        shapes="update",
        compared="rounding",
        added=True,
        doc="ray: ranks that share the learner's work, one CPU core each",
        gt=0,
    )
    samplers: int | None = setting(
        None,
        unit="engines",
        shapes="samples",
        compared="rounding",
        added=True,
        doc="ray: engines that sample, one CPU core each",
        gt=0,
    )
    learner_gpus: int | None = setting(
        None,
        unit="GPUs",
        shapes="update",
        compared="rounding",
        added=True,
        doc="ray: learner ranks with a GPU each, instead of cluster.learner_ranks",
        gt=0,
    )
    rollout_gpus: int | None = setting(
        None,
        unit="GPUs",
        shapes="samples",
        compared="rounding",
        added=True,
        doc="ray: engines with a GPU each, instead of cluster.samplers",
        gt=0,
    )
    address: str | None = setting(
        None,
        shapes="nothing",
        doc="ray: HOST:PORT of a cluster; local = start Ray here; absent = RAY_ADDRESS, or what `ray start` runs on "
        "this machine, else as local",
    )
    placement_timeout_s: float = setting(
        300.0, unit="s", shapes="nothing", doc="ray: longest wait for the cores and GPUs of a role", gt=0
    )
    max_restarts: int = setting(
        3,
        unit="restarts",
        shapes="nothing",
        doc="ray: restarts of a sampler, and of all learner ranks from the newest checkpoint with no step done between",
        ge=0,
    )
    silence_s: float = setting(
        60.0,
        unit="s",
        shapes="nothing",
        doc="a worker process without a sign of life for so long counts as lost; a busy one gives one every 5 s",
        ge=20,
    )
    stall_s: float = setting(
        1800.0,
        unit="s",
        shapes="nothing",
        doc="longest time without any progress (decoding step, micro-batch, completion, phase): then all stacks are "
        "written to workers/ of the run directory, and a worker counts as lost, or the run ends",
        ge=60,
    )
