"""Sums over the tokens and updates of one step, turned into the metrics of docs/metrics.md."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from deepscaler.types import UpdateStats


@dataclass(slots=True)
class UpdateMetrics:
    """Token figures are means over trained tokens; mismatch is measured before the first update only."""

    num_tokens: int = 0
    num_packed_tokens: int = 0
    loss: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    kl: float | None = None
    mismatch: float = 0.0
    mismatch_max: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    learning_rate: float = 0.0
    num_updates: int = 0
    skipped: int = 0

    def add_tokens(
        self, packed: int, entropy_C: Tensor, clipped_C: Tensor, kl_C: Tensor | None, mismatch_C: Tensor
    ) -> None:
        """Adds one micro-batch; `mismatch_C` is trainer minus engine log-probability at the start of the step."""
        self.num_packed_tokens += packed
        self.num_tokens += len(entropy_C)
        self.entropy += float(entropy_C.detach().sum())
        self.clipped += float(clipped_C.sum())
        difference = mismatch_C.detach().abs()
        self.mismatch += float(difference.sum())
        self.mismatch_max = max(self.mismatch_max, float(difference.max()))
        if kl_C is not None:
            self.kl = (self.kl or 0.0) + float(kl_C.detach().sum())

    def merge(self, other: UpdateMetrics) -> None:
        """Add the token sums of another share of the same update."""
        self.num_tokens += other.num_tokens
        self.num_packed_tokens += other.num_packed_tokens
        self.loss += other.loss
        self.entropy += other.entropy
        self.clipped += other.clipped
        self.mismatch += other.mismatch
        self.mismatch_max = max(self.mismatch_max, other.mismatch_max)
        if other.kl is not None:
            self.kl = (self.kl or 0.0) + other.kl

    def add_update(self, grad_norm: float, learning_rate: float, *, applied: bool) -> None:
        self.learning_rate = learning_rate
        if applied:
            self.num_updates += 1
            self.grad_norms.append(grad_norm)
        else:
            self.skipped += 1

    @property
    def mismatch_mean(self) -> float:
        return self.mismatch / self.num_tokens if self.num_tokens else 0.0

    def stats(self) -> UpdateStats:
        tokens = self.num_tokens
        return UpdateStats(
            num_updates=self.num_updates,
            skipped_updates=self.skipped,
            num_trained_tokens=self.num_packed_tokens,
            entropy_mean=self.entropy / tokens if tokens else None,
            clip_frac=self.clipped / tokens if tokens else None,
            mismatch_mean=self.mismatch_mean if tokens else None,
            mismatch_max=self.mismatch_max if tokens else None,
            kl_mean=self.kl / tokens if tokens and self.kl is not None else None,
            grad_norm=sum(self.grad_norms) / len(self.grad_norms) if self.grad_norms else None,
            learning_rate=self.learning_rate if tokens else None,
        )
