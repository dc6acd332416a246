"""Oracle: TRL's GRPOTrainer. Its own loss code on the same logits gives the same loss and gradient as ours.

A real trainer is built on a tiny random Qwen2, without the hub. One method is replaced: log-probabilities
come from a leaf tensor of logits instead of the model, so gradients are compared with respect to logits.
"""

# ruff: noqa: N815  (shape letters)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepscaler.algorithms.advantages import ADVANTAGES
from deepscaler.algorithms.batch import make_samples
from deepscaler.algorithms.importance import truncated_importance_weights
from deepscaler.algorithms.kl import KL_ESTIMATORS
from deepscaler.algorithms.losses import LOSSES, combine
from deepscaler.config.presets import PRESETS
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup, Verdict

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and what it imports, none of ours

VOCABULARY, PAD, EOS, BUDGET, GROUP_SIZE = 11, 0, 1, 8, 3
LENGTHS = [[3, 8, 5], [1, 4, 8]]  # 8 = the budget: these completions were cut
REWARDS = [[1.0, 0.0, 0.25], [0.0, 0.5, 0.0]]
NewTrainer = Callable[..., Any]


@pytest.fixture(scope="module")
def new_trainer(tmp_path_factory: pytest.TempPathFactory) -> NewTrainer:
    """Builds a GRPOTrainer; importing TRL takes seconds and happens only when a test here runs."""
    trl = pytest.importorskip("trl", reason="trl is not installed (extra `dev`)", exc_type=ImportError)
    from datasets import Dataset  # type: ignore[import-untyped]
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {"<pad>": PAD, "<eos>": EOS, **{chr(ord("a") + i): 2 + i for i in range(VOCABULARY - 2)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    rows = Dataset.from_dict({"prompt": ["a b"] * len(LENGTHS) * GROUP_SIZE})
    flat = [r for group in REWARDS for r in group]

    def build(**settings: Any) -> Any:
        args = trl.GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=len(flat),
            num_generations=GROUP_SIZE,
            max_completion_length=BUDGET,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            num_iterations=2,
            **settings,
        )
        trainer = trl.GRPOTrainer(
            model=Qwen2ForCausalLM(config),
            reward_funcs=[lambda completions, **_: flat],
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not run here
        trainer.model.train()
        return trainer

    return build


@dataclass(frozen=True)
class Step:
    """The tensors of one optimizer step, padded as TRL wants them: B completions, T tokens, V vocabulary."""

    logits_BTV: Tensor
    ids_BT: Tensor
    mask_BT: Tensor
    old_BT: Tensor
    ref_BT: Tensor
    rollout_BT: Tensor
    groups: list[ScoredGroup]

    def logprobs(self, logits_BTV: Tensor) -> Tensor:
        return logits_BTV.log_softmax(-1).gather(-1, self.ids_BT[..., None]).squeeze(-1)


def step_of(spread: float) -> Step:
    """`spread`: how far the old policy is from the current one, in nats per token."""
    generator = torch.Generator().manual_seed(5)
    shape = (len(LENGTHS) * GROUP_SIZE, BUDGET)
    lengths = torch.tensor(LENGTHS).flatten()
    mask = torch.arange(BUDGET) < lengths[:, None]
    ids = torch.randint(2, VOCABULARY, shape, generator=generator)
    logits = torch.randn(*shape, VOCABULARY, generator=generator, dtype=torch.float64)
    current = logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    old = current + noise(spread)
    rollout = old + noise(0.5)
    groups = [scored_group(p, REWARDS[p], ids.view(2, 3, -1)[p], mask.view(2, 3, -1)[p]) for p in range(len(LENGTHS))]
    return Step(logits, ids, mask, old, current + noise(0.3), rollout, groups)


def scored_group(p: int, rewards: list[float], ids_GT: Tensor, mask_GT: Tensor) -> ScoredGroup:
    rollouts = tuple(
        Rollout(
            problem_id=str(p),
            sample_index=i,
            prompt_ids=np.array([2, 3], dtype=np.int32),
            completion_ids=ids[mask].numpy().astype(np.int32),
            rollout_logprobs=np.zeros(int(mask.sum()), dtype=np.float32),
            finish_reason=FinishReason.LENGTH if mask.all() else FinishReason.STOP,
            policy_version=0,
        )
        for i, (ids, mask) in enumerate(zip(ids_GT, mask_GT, strict=True))
    )
    verdicts = tuple(Verdict(Outcome.CORRECT if r > 0 else Outcome.WRONG, r) for r in rewards)
    return ScoredGroup(Group(Problem(str(p), "?", ("1",)), rollouts), ("",) * len(rewards), verdicts)


def our_loss(step: Step, algorithm: AlgorithmSection, logits_BTV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, advantages [B], clipped [T]): the way the learner goes, from scored groups to the plain sum."""
    (samples,) = make_samples(step.groups, algorithm, max_completion_tokens=BUDGET, num_updates=1)
    segments_T = torch.arange(len(samples))[:, None].expand_as(step.mask_BT)[step.mask_BT]
    advantages = torch.tensor([s.advantage for s in samples], dtype=torch.float64)
    weights_T = torch.from_numpy(np.concatenate([s.token_weights for s in samples])).double()
    logprobs_T, old_T, ref_T, rollout_T = (
        x[step.mask_BT] for x in (step.logprobs(logits_BTV), step.old_BT, step.ref_BT, step.rollout_BT)
    )
    policy = LOSSES[algorithm.loss](
        logprobs_T,
        old_T,
        advantages[segments_T],
        segments_T,
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
    )
    cap = algorithm.importance_cap
    total_T = combine(
        policy.loss_T,
        importance_T=truncated_importance_weights(old_T, rollout_T, cap) if cap else None,
        kl_T=KL_ESTIMATORS[algorithm.kl.estimator](logprobs_T, ref_T),
        kl_coefficient=algorithm.kl.coefficient,
        entropy_T=entropies(logits_BTV)[step.mask_BT],
        entropy_coefficient=algorithm.entropy_coefficient,
    )
    return (weights_T * total_T).sum(), advantages, policy.clipped_T


def entropies(logits_BTV: Tensor) -> Tensor:
    return -(logits_BTV.softmax(-1) * logits_BTV.log_softmax(-1)).sum(-1)


def trl_loss(trainer: Any, step: Step, advantages_B: Tensor, logits_BTV: Tensor) -> Tensor:
    """TRL's own `_compute_loss`, on our tensors and with our advantages (its epsilon is 1e-4, ours 1e-6)."""
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        step.logprobs(logits_BTV),
        entropies(logits_BTV),
        None,
    )
    mask_BT = step.mask_BT.long()
    if trainer.mask_truncated_completions:
        mask_BT = mask_BT * (step.mask_BT.sum(1, keepdim=True) < BUDGET)
    inputs = {
        "prompt_ids": torch.tensor([[2, 3]] * len(advantages_B)),
        "prompt_mask": torch.ones(len(advantages_B), 2, dtype=torch.long),
        "completion_ids": step.ids_BT,
        "completion_mask": mask_BT,
        "advantages": advantages_B,
        "old_per_token_logps": step.old_BT,
        "ref_per_token_logps": step.ref_BT,
        "num_items_in_batch": mask_BT.sum(),
        "importance_sampling_ratio": (step.old_BT - step.rollout_BT).exp().clamp(max=2.0),
    }
    return trainer._compute_loss(trainer.model, inputs)


@dataclass(frozen=True)
class Case:
    """An algorithm of ours and the settings TRL calls it by. `attributes` are set on the built trainer."""

    algorithm: AlgorithmSection
    trl: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    spread: float = 0.4


def preset(name: str, **changes: Any) -> AlgorithmSection:
    return AlgorithmSection.model_validate({**PRESETS[name].algorithm, **changes})


# beta above 0 would make the constructor load a reference model from the hub, so cases set it afterwards.
# TRL's default multiplies k3 by the ratio (DeepSeek-V3.2, arXiv:2512.02556); GRPO, and we, do not.
PLAIN: dict[str, Any] = {"beta": 0.0, "use_bias_correction_kl": False}
CASES = {
    "grpo": Case(
        preset("deepscaler", reduction="sequence_mean", entropy_coefficient=0.0),
        {"loss_type": "grpo"},
        {"beta": 0.001},
    ),
    "deepscaler": Case(preset("deepscaler"), {"loss_type": "dapo", "entropy_coef": 0.001}, {"beta": 0.001}),
    "deepscaler-strong-terms": Case(
        preset("deepscaler", kl={"estimator": "k3", "coefficient": 0.5}, entropy_coefficient=0.5),
        {"loss_type": "bnpo", "entropy_coef": 0.5},
        {"beta": 0.5},
    ),
    "grpo-plus": Case(
        preset("grpo-plus"), {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True}
    ),
    "dr-grpo": Case(preset("dr-grpo"), {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dr-grpo-masked": Case(
        preset("dr-grpo", truncated="mask"), {"loss_type": "dr_grpo", "mask_truncated_completions": True}
    ),
    "dapo": Case(preset("dapo", soft_penalty_tokens=4), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": Case(
        preset("gspo"),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        spread=1e-3,
    ),
    "cispo": Case(preset("cispo"), {"loss_type": "cispo", "epsilon_high": 5.0}, spread=1.5),
    "importance": Case(
        preset("deepscaler", importance_cap=2.0, entropy_coefficient=0.0),
        {"loss_type": "dapo"},
        {"beta": 0.001, "use_vllm": True, "vllm_importance_sampling_correction": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_trl(name: str, new_trainer: NewTrainer) -> None:
    case = CASES[name]
    step = step_of(case.spread)
    trainer = new_trainer(**{**PLAIN, **case.trl})
    for attribute, value in case.attributes.items():
        setattr(trainer, attribute, value)

    ours, theirs = (step.logits_BTV.clone().requires_grad_() for _ in range(2))
    loss, advantages, clipped = our_loss(step, case.algorithm, ours)
    expected = trl_loss(trainer, step, advantages, theirs)
    loss.backward()
    expected.backward()

    assert clipped.any() and not clipped.all()
    assert ours.grad is not None and theirs.grad is not None
    scale = theirs.grad.abs().max().item()
    assert scale > 1e-4
    # Token weights are float32 on their way to the learner; everything else here is float64.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-8)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-7 * scale)


def test_masked_completions_leave_our_sequence_mean_and_not_trls(
    new_trainer: NewTrainer,
) -> None:
    """Documented: TRL divides by all completions, we by those trained on (docs/algorithms.md)."""
    step = step_of(0.4)
    algorithm = preset("grpo-plus", reduction="sequence_mean", clip_high=0.2)
    loss, advantages, _ = our_loss(step, algorithm, step.logits_BTV)
    trainer = new_trainer(loss_type="grpo", mask_truncated_completions=True, **PLAIN)
    expected = trl_loss(trainer, step, advantages, step.logits_BTV)
    num_trained, num_all = 4, 6
    assert loss.item() * num_trained == pytest.approx(expected.item() * num_all, rel=1e-6)


def trl_advantages(trainer: Any) -> Tensor:
    """What TRL computes of REWARDS on its own way through generating and scoring."""
    generated = [[2] * (n - 1) + [EOS] for row in LENGTHS for n in row]
    trainer._generate_single_turn = lambda *_: (generated, None)
    output = trainer._generate_and_score_completions([{"prompt": "a b"}] * len(generated))
    return output["advantages"].double().view(-1, GROUP_SIZE)


@pytest.mark.parametrize(("ours", "theirs"), [("group_normalized", "group"), ("mean_baseline", "none")])
def test_advantages_equal_trl_but_for_its_epsilon(ours: str, theirs: str, new_trainer: NewTrainer) -> None:
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    std = rewards.std(1, keepdim=True) if theirs == "group" else torch.ones(1, dtype=torch.float64)
    ours_eps, theirs_eps = (1e-6, 1e-4) if theirs == "group" else (0.0, 0.0)
    expected = trl_advantages(new_trainer(loss_type="dapo", scale_rewards=theirs, **PLAIN))
    got = ADVANTAGES[ours](rewards)
    torch.testing.assert_close(got * (std + ours_eps), expected * (std + theirs_eps), rtol=1e-5, atol=1e-6)


def test_batch_normalized_advantages_differ_from_trl_by_one_factor(new_trainer: NewTrainer) -> None:
    """TRL divides by the standard deviation of the raw rewards, ScaleRL by that of the centred ones."""
    got = ADVANTAGES["batch_normalized"](torch.tensor(REWARDS, dtype=torch.float64))
    expected = trl_advantages(new_trainer(loss_type="dapo", scale_rewards="batch", **PLAIN))
    factor = (got.std() / expected.std()).item()
    assert factor > 1
    torch.testing.assert_close(got, expected * factor, rtol=1e-5, atol=1e-6)
