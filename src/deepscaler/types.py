"""The value each stage of the program hands to the next. All frozen; arrays are numpy.

    Problem --sample--> Group --grade--> ScoredGroup --advantage, weight--> TrainSample

Holding a value proves that the stage before it has run: no field waits as None for someone to fill it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


AnswerKind = Literal["math", "letter"]
"""How an answer is compared: `math` by the grader's equality, `letter` as the chosen one of several answers."""


class Outcome(StrEnum):
    """How a grading ended. Only `CORRECT` earns reward; the others are told apart and counted."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    GRADER_FAILED = "grader_failed"
    BAD_REFERENCE = "bad_reference"

    @property
    def graded(self) -> bool:
        """False where no verdict was reached: the grading crashed, ran out of time, or met an unusable reference."""
        return self not in (Outcome.TIMEOUT, Outcome.GRADER_FAILED, Outcome.BAD_REFERENCE)


class PartOutcome(StrEnum):
    """How a part of the reward ended for one completion. `NO_SIGNAL`: it says nothing about this one (None).

    All from `EXCEPTION` on are failures: the completion then has no reward at all.
    """

    VALUE = "value"
    NO_SIGNAL = "no_signal"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    NOT_FINITE = "not_finite"
    WRONG_TYPE = "wrong_type"
    WRONG_LENGTH = "wrong_length"
    NO_VERDICT = "no_verdict"

    @property
    def failed(self) -> bool:
        return self not in (PartOutcome.VALUE, PartOutcome.NO_SIGNAL)


class FinishReason(StrEnum):
    """Why an engine ended a completion: `STOP` = the model emitted a stop token, `LENGTH` = budget used up.

    `UNKNOWN`: a server did not say.
    """

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. role: `system`, `user`, `assistant`, as chat templates know them."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with checkable answers. `references` are alternatives: matching any one is correct.

    tolerance: absolute, only where the dataset's row declares one; without it, numbers are compared exactly.
    earlier: what the model is shown before the question, e.g. a system message. pass_rate: share of a model's samples
    that are right, by `deepscaler data score`.
    instruction: asked with this problem instead of the recipe's; None for the recipe's. answer_kind: `letter` where
        the reference is the letter of one of several answers that the prompt lists.
    columns: what else the row holds, as the text of a JSON object; empty where no reward asks for it.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    source: str = ""
    difficulty: float | None = None
    solution: str | None = None
    tolerance: float | None = None
    earlier: tuple[Message, ...] = ()
    instruction: str | None = None
    answer_kind: AnswerKind = "math"
    columns: str = ""
    pass_rate: float | None = None


@dataclass(frozen=True, slots=True)
class WantedColumns:
    """Columns of the data that reward functions take, beside problem and answer.

    required: column -> the part of the reward that cannot do without. kept: those to keep, None for all.
    """

    required: Mapping[str, str] = field(default_factory=dict)
    kept: frozenset[str] | None = frozenset()


@dataclass(frozen=True, slots=True)
class GradeItem:
    r"""One completion to grade against alternative references, any of which suffices.

        GradeItem("so x = 2/4 </think> \\boxed{\\frac{2}{4}}", ("0.5",), thinking_prefilled=True)

    thinking_prefilled: the chat template opened `<think>`, so that the completion starts inside it.
    tolerance: absolute, where the data set's row declares one. truncated: the completion ended at its token budget; it
        then earns nothing, whatever its text holds. answer_kind: as of the problem. answer_rules: where its answer is,
        in the order in which they are tried (`grader.answer`).
    """

    completion: str
    references: Sequence[str]
    thinking_prefilled: bool
    tolerance: float | None = None
    truncated: bool = False
    answer_kind: AnswerKind = "math"
    answer_rules: tuple[str, ...] = ("boxed",)

    def __post_init__(self) -> None:
        if isinstance(self.references, str):
            raise TypeError("references is a sequence of strings, not one string")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grader's decision on one completion. `answer` is what was extracted; `detail` says why, in words.

    `cached`: decided before, for an equal answer to the same references. How long it took and whether it was cached
    say nothing about the completion, so verdicts that differ in nothing else are equal.
    """

    outcome: Outcome
    reward: float
    answer: str | None = None
    detail: str = ""
    seconds: float = field(default=0.0, compare=False)
    cached: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class PartValue:
    """What one part of the reward says about one completion.

    value: before its weight, None unless the outcome is `VALUE`. detail: of a failure, with the function's traceback.
    metrics: named numbers that the function returned beside its value.
    """

    name: str
    outcome: PartOutcome
    value: float | None = None
    detail: str = ""
    seconds: float = field(default=0.0, compare=False)
    metrics: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionReward:
    """What one completion earned, and from which parts; none where the grader's verdict is the reward.

    value: None where no part says anything or one failed. solved: as the recipe defines it (`reward.solved_threshold`).
    """

    value: float | None
    solved: bool
    parts: tuple[PartValue, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. `seed` is the run's; the stream key is (seed, step, problem id, sample index).

    `temperature` 0 is greedy. A completion ends with its first stop token or the first stop string in its text, beside
    the stop tokens that the engine was started with; both stay in its ids, and a stop string is removed from its text.
    """

    max_completion_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    seed: int = 0
    step: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One group to sample: `num_samples` completions of the same prompt, indices from `first_sample_index`.

    begun: a completion that was interrupted, to be continued up to the same budget; `num_samples` is 1 then. Its tokens
    and their log-probabilities are part of the rollout that comes back.
    """

    problem_id: str
    prompt_ids: IntArray  # [num_prompt_tokens]
    num_samples: int
    first_sample_index: int = 0
    begun: Rollout | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion as sampled. The ids are the ids trained on: never re-tokenised.

    completion_ids: int32 [num_tokens], up to and including the stop token, if one was emitted.
    rollout_logprobs: float32 [num_tokens], log-probability of each sampled token under the untruncated,
        temperature-scaled distribution (nats), as the engine computed it.
    policy_version: of the first token, the oldest. later_versions: (index of the token, version) where newer weights
        took over, of a completion that was interrupted.
    """

    problem_id: str
    sample_index: int
    prompt_ids: IntArray
    completion_ids: IntArray
    rollout_logprobs: FloatArray
    finish_reason: FinishReason
    policy_version: int
    later_versions: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.completion_ids)

    @property
    def token_versions(self) -> IntArray:
        """int32 [num_tokens]: the version of the weights that each token was sampled with."""
        versions = np.full(self.num_tokens, self.policy_version, np.int32)
        for start, version in self.later_versions:
            versions[start:] = version
        return versions

    @property
    def truncated(self) -> bool:
        return self.finish_reason is FinishReason.LENGTH


@dataclass(frozen=True, slots=True)
class Group:
    """All completions of one problem in one step."""

    problem: Problem
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with the grader's verdicts, the decoded texts that were graded, and what they earned.

    composed: one per completion where the recipe has a [reward]; empty where the verdict is the reward.
    rewards: float32 [num_samples]. graded: bool [num_samples], False where the reward says nothing about the
        completion, which is then left out of everything that is learned from.
    """

    group: Group
    texts: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    composed: tuple[CompletionReward, ...] = ()

    @property
    def earned(self) -> tuple[CompletionReward, ...]:
        """One per completion."""
        return self.composed or tuple(
            CompletionReward(v.reward if v.outcome.graded else None, v.outcome is Outcome.CORRECT)
            for v in self.verdicts
        )

    @property
    def rewards(self) -> FloatArray:
        return np.array([reward.value or 0.0 for reward in self.earned], dtype=np.float32)

    @property
    def graded(self) -> NDArray[np.bool_]:
        return np.array([reward.value is not None for reward in self.earned], dtype=np.bool_)

    @property
    def has_signal(self) -> bool:
        """Whether the graded rewards differ."""
        rewards = self.rewards[self.graded]
        return bool((rewards != rewards[:1]).any())

    @property
    def solve_rate(self) -> float | None:
        """Share that is solved of what has a reward; None where nothing has."""
        solved = [reward.solved for reward in self.earned if reward.value is not None]
        return sum(solved) / len(solved) if solved else None

    @property
    def solved(self) -> bool:
        """Whether everything that has a reward is solved, and something has."""
        solved = [reward.solved for reward in self.earned if reward.value is not None]
        return bool(solved) and all(solved)


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One completion ready for the loss.

    advantage: scalar, the same for every token of the completion.
    token_weights: float32 [num_tokens]; computed once per optimizer step so that the loss is a plain sum.
        A masked token has weight 0.
    """

    prompt_ids: IntArray
    completion_ids: IntArray
    rollout_logprobs: FloatArray
    advantage: float
    token_weights: FloatArray
    policy_version: int

    @property
    def num_tokens(self) -> int:
        """Prompt and completion together: what the sample costs in a packed micro-batch."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class TokenSums:
    """Sums over the trained tokens of a micro-batch; those of several add up to those of the update (nats).

    num_packed_tokens: prompts included. mismatch: |trainer's minus engine's log-probability| at the start of the step.
    ratio, ratio_squared: of trainer's and engine's probability there, uncorrected. masked: tokens that
    `algorithm.importance_mask` left out; None where there is no such mask.
    """

    num_tokens: int = 0
    num_packed_tokens: int = 0
    loss: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    kl: float | None = None
    mismatch: float = 0.0
    mismatch_max: float = 0.0
    ratio: float = 0.0
    ratio_squared: float = 0.0
    masked: float | None = None

    def __add__(self, other: TokenSums) -> TokenSums:
        return TokenSums(
            num_tokens=self.num_tokens + other.num_tokens,
            num_packed_tokens=self.num_packed_tokens + other.num_packed_tokens,
            loss=self.loss + other.loss,
            entropy=self.entropy + other.entropy,
            clipped=self.clipped + other.clipped,
            kl=self.kl if other.kl is None else (self.kl or 0.0) + other.kl,
            mismatch=self.mismatch + other.mismatch,
            mismatch_max=max(self.mismatch_max, other.mismatch_max),
            ratio=self.ratio + other.ratio,
            ratio_squared=self.ratio_squared + other.ratio_squared,
            masked=self.masked if other.masked is None else (self.masked or 0.0) + other.masked,
        )

    @property
    def mismatch_mean(self) -> float:
        return self.mismatch / self.num_tokens if self.num_tokens else 0.0

    @property
    def effective_sample_size(self) -> float | None:
        """(sum of ratios)^2 / (tokens * sum of squared ratios), in (0, 1] (Kish 1965); None without tokens.

        1 where trainer and engine agree.
        """
        return self.ratio**2 / (self.num_tokens * self.ratio_squared) if self.ratio_squared else None


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What the learner reports of one step. None: nothing was trained on, so there is no such figure.

    num_updates: applied ones. Token figures are means over trained tokens (nats); `grad_norm` is the mean of the
    applied updates; `learning_rate` is what the optimizer held at the last one. effective_sample_size: of the ratios
    trainer/sampler, as a share of the tokens. importance_masked_frac: tokens left out by `algorithm.importance_mask`.
    """

    num_updates: int = 0
    skipped_updates: int = 0
    num_trained_tokens: int = 0
    entropy_mean: float | None = None
    clip_frac: float | None = None
    mismatch_mean: float | None = None
    mismatch_max: float | None = None
    kl_mean: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    effective_sample_size: float | None = None
    importance_masked_frac: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """What metrics.jsonl says of them: write-only, nothing in the program branches on it. Finite numbers only."""
        written = [f.name for f in fields(self) if f.name != "num_updates"]
        values = {name: getattr(self, name) for name in written}
        return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """The weights that an engine samples from, as read back from it.

    digest: SHA-256 over names, shapes, dtypes and bytes. dtype: of the engine's weights, as PyTorch names it.
    num_bytes: that were copied to the engine; 0 where it reads the learner's memory.
    """

    version: int
    digest: str
    dtype: str = "float32"
    num_bytes: int = field(default=0, compare=False)


class RunError(RuntimeError):
    """A run ended for a reason its message explains, with the remedy; nothing on disk is damaged."""


class WorkerLost(RunError):  # noqa: N818
    """A worker process died, or gives no sign of life; what it was asked for may be asked of another one."""
