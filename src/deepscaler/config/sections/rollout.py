"""How completions are sampled in training, and where the workers of a run are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deepscaler.config.parts import ClusterKind, EngineName
from deepscaler.config.setting import Section, setting

TokenId = Annotated[int, Field(ge=0)]
StopString = Annotated[str, Field(min_length=1)]


class RolloutSection(Section):
    engine: EngineName = setting(
        "torch",
        shapes="samples",
        added=True,
        doc="torch = this program's own; vllm, where it is installed, has a copy of the weights",
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
    """Where a run's workers are."""

    kind: ClusterKind = setting("local", shapes="update", compared="rounding", added=True, doc="local = this machine")
