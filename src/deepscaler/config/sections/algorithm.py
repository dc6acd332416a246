"""What turns rewards into a gradient: advantages, loss, reduction, filters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepscaler.config.import_paths import own_or
from deepscaler.config.setting import Section, setting

Share = Annotated[float, Field(ge=0, le=1)]
# Smallest and largest ratio kept: of a token (IcePop, arXiv:2510.18855), and geometric mean of a completion (NeMo-RL).
IMPORTANCE_BOUNDS = {"icepop": (0.5, 5.0), "sequence": (0.999, 1.002)}

ADVANTAGE_NAMES = ("group_normalized", "mean_baseline", "leave_one_out", "batch_normalized")
LOSS_NAMES = ("clipped_surrogate", "cispo", "gspo", "reinforce")
AdvantageName = Annotated[str, own_or(ADVANTAGE_NAMES)]
LossName = Annotated[str, own_or(LOSS_NAMES)]


class KlSection(Section):
    estimator: Literal["k1", "k2", "k3"] = setting("k3", shapes="update", doc="Schulman's estimator used in the loss")
    coefficient: float = setting(
        0.0, shapes="update", doc="added to the loss with a plus sign; 0 = off and no reference kept", ge=0
    )


class AlgorithmSection(Section):
    advantage: AdvantageName = setting(
        "group_normalized",
        shapes="update",
        doc="how rewards become advantages; or a function of yours, FILE.py:NAME or MODULE:NAME (docs/algorithms.md)",
    )
    reduction: Literal["token_mean", "sequence_mean", "prompt_mean", "fixed_length"] = setting(
        "token_mean", shapes="update", doc="how token losses add up over the whole optimizer step"
    )
    loss: LossName = setting(
        "clipped_surrogate",
        shapes="update",
        doc="policy-gradient loss; or a function of yours, FILE.py:NAME or MODULE:NAME (docs/algorithms.md)",
    )
    clip_low: float = setting(0.2, shapes="update", doc="lower clip distance of the ratio", ge=0)
    clip_high: float = setting(0.2, shapes="update", doc="upper clip distance of the ratio", ge=0)
    kl: KlSection = KlSection()
    entropy_coefficient: float = setting(0.0, shapes="update", doc="entropy bonus, subtracted from the loss", ge=0)
    truncated: Literal["train", "mask", "soft_penalty"] = setting(
        "train",
        shapes="update",
        doc="completions truncated at the budget: train on reward 0, mask, or a soft overlong penalty",
    )
    soft_penalty_tokens: int = setting(
        0,
        unit="tokens",
        shapes="update",
        doc="soft_penalty: reward falls linearly from 0 to -1 over the last so many tokens",
        ge=0,
    )
    importance_cap: float = setting(
        0.0, shapes="update", doc="cap of the truncated importance weight trainer/sampler; 0 = off", ge=0
    )
    importance_mask: Literal["none", "icepop", "sequence"] = setting(
        "none",
        shapes="update",
        added=True,
        doc="leave out where trainer and sampler disagree: icepop = tokens, by the ratio trainer/sampler, which also "
        "weighs those kept; sequence = completions, by the geometric mean of their ratios",
    )
    importance_low: float | None = setting(
        None,
        shapes="update",
        added=True,
        doc="importance_mask: smallest ratio kept; absent = 0.5 for icepop, 0.999 for sequence",
        gt=0,
        le=1,
    )
    importance_high: float | None = setting(
        None,
        shapes="update",
        added=True,
        doc="importance_mask: largest ratio kept; absent = 5 for icepop, 1.002 for sequence",
        ge=1,
    )
    dynamic_sampling: bool = setting(
        False, shapes="samples", doc="drop groups whose rewards are all equal and sample more until the step is full"
    )
    accuracy_band: tuple[Share, Share] | None = setting(
        None,
        unit="share",
        shapes="samples",
        added=True,
        doc="[lowest, highest] share of solved completions of a group that is trained on; others are dropped, and more "
        "are sampled until the step is full",
    )
    max_refills: int = setting(
        3,
        unit="rounds",
        shapes="samples",
        doc="dynamic_sampling, accuracy_band: rounds before going on with fewer",
        ge=0,
    )
    drop_zero_variance: bool = setting(
        False, shapes="update", doc="drop groups whose rewards are all equal, without refilling (ScaleRL)"
    )

    @property
    def refills(self) -> bool:
        """Whether groups that are dropped are replaced by others."""
        return self.dynamic_sampling or self.accuracy_band is not None

    @property
    def needs_signal(self) -> bool:
        """Whether groups whose rewards are all equal are dropped."""
        return self.dynamic_sampling or self.drop_zero_variance

    @property
    def importance_bounds(self) -> tuple[float, float]:
        """Smallest and largest ratio that `importance_mask` keeps."""
        low, high = IMPORTANCE_BOUNDS.get(self.importance_mask, (1.0, 1.0))
        return (
            low if self.importance_low is None else self.importance_low,
            high if self.importance_high is None else self.importance_high,
        )

    @property
    def corrects_importance(self) -> bool:
        """Whether the policy loss is corrected for the difference between trainer and sampler."""
        return self.importance_cap > 0 or self.importance_mask != "none"
