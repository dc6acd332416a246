"""Named sets of [algorithm] values, each with its source. A recipe selects one with `preset = "dapo"`.

A preset holds only the algorithm settings of its source. Learning rate, temperature, group size and data belong to the
recipe; `note` names those on which the result of the source depends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """algorithm: values of AlgorithmSection, `kl` as a nested table; absent settings keep their default."""

    name: str
    source: str
    note: str
    algorithm: Mapping[str, object]


_GRPO = {
    "advantage": "group_normalized",
    "reduction": "token_mean",
    "loss": "clipped_surrogate",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "kl": {"coefficient": 0.0},
    "entropy_coefficient": 0.0,
    "truncated": "train",
}

_ALL = (
    Preset(
        "deepscaler",
        "Luo et al. 2025, DeepScaleR",
        "GRPO with a k3 KL term and an entropy bonus; truncated completions are trained on with reward 0. "
        "Token mean over the whole optimizer step (the original summed the means of its micro-batches).",
        {**_GRPO, "kl": {"estimator": "k3", "coefficient": 0.001}, "entropy_coefficient": 0.001},
    ),
    Preset(
        "grpo-plus",
        "Luo et al. 2025, DeepCoder",
        "GRPO+: no KL, no entropy term, a higher upper clip, truncated completions masked.",
        {**_GRPO, "clip_high": 0.28, "truncated": "mask"},
    ),
    Preset(
        "dr-grpo",
        "Liu et al. 2025, arXiv:2503.20783",
        "No division by the group's standard deviation, no division by the completion's length.",
        {**_GRPO, "advantage": "mean_baseline", "reduction": "fixed_length"},
    ),
    Preset(
        "dapo",
        "Yu et al. 2025, arXiv:2503.14476",
        "Clip-higher, dynamic sampling, token mean, soft overlong penalty. The paper's penalty spans 4096 of 20480 "
        "tokens: with another budget set algorithm.soft_penalty_tokens, a fifth of it.",
        {
            **_GRPO,
            "clip_high": 0.28,
            "truncated": "soft_penalty",
            "soft_penalty_tokens": 4096,
            "dynamic_sampling": True,
        },
    ),
    Preset(
        "rloo",
        "Ahmadian et al. 2024, arXiv:2402.14740",
        "REINFORCE with a leave-one-out baseline; the log-probability of a completion is the sum over its tokens, "
        "hence a fixed length as divisor. On-policy: use one update per step.",
        {
            "advantage": "leave_one_out",
            "reduction": "fixed_length",
            "loss": "reinforce",
            "kl": {"coefficient": 0.0},
            "entropy_coefficient": 0.0,
            "truncated": "train",
        },
    ),
    Preset(
        "gspo",
        "Zheng et al. 2025, arXiv:2507.18071",
        "One ratio per sequence (length-normalised), clipped at 3e-4 and 4e-4, mean over sequences.",
        {**_GRPO, "loss": "gspo", "reduction": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4},
    ),
    Preset(
        "cispo",
        "MiniMax-M1 2025, arXiv:2506.13585",
        "The clipped ratio is a constant weight, so every token keeps its gradient. No lower clip (distance 1 puts "
        "the bound at 0); the upper bound of 5 is the value of arXiv:2510.13786, the paper gives none.",
        {**_GRPO, "loss": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    ),
    Preset(
        "justrl",
        "He et al. 2025, arXiv:2512.16649",
        "Plain GRPO with clip-higher, no KL, no entropy term, no filtering, no length penalty. The source samples at "
        "T = 1 in one stage of 15360 tokens.",
        {**_GRPO, "clip_high": 0.28},
    ),
    Preset(
        "scalerl",
        "Khatri et al. 2025, arXiv:2510.13786",
        "CISPO loss (upper bound 5), mean per prompt, batch-normalised advantages, groups without variance dropped. "
        "The source also computes logits in float32 and stops resampling solved prompts, which are not settings of "
        "[algorithm].",
        {
            **_GRPO,
            "advantage": "batch_normalized",
            "reduction": "prompt_mean",
            "loss": "cispo",
            "clip_low": 1.0,
            "clip_high": 4.0,
            "drop_zero_variance": True,
        },
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}
