"""Sums over the tokens of a micro-batch, and over the updates of a step: the metrics of docs/metrics.md."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from deepscaler.protocols import AppliedUpdate
from deepscaler.types import TokenSums, UpdateStats


@dataclass(slots=True)
class StepSums:
    """One step's token sums and updates."""

    tokens: TokenSums = field(default_factory=TokenSums)
    grad_norms: list[float] = field(default_factory=list)
    learning_rate: float = 0.0
    num_skipped: int = 0

    def add_update(self, update: AppliedUpdate) -> None:
        self.learning_rate = update.learning_rate
        if math.isfinite(update.grad_norm):
            self.grad_norms.append(update.grad_norm)
        else:
            self.num_skipped += 1

    def stats(self) -> UpdateStats:
        tokens, count = self.tokens, self.tokens.num_tokens
        return UpdateStats(
            num_updates=len(self.grad_norms),
            skipped_updates=self.num_skipped,
            num_trained_tokens=tokens.num_packed_tokens,
            entropy_mean=tokens.entropy / count if count else None,
            clip_frac=tokens.clipped / count if count else None,
            mismatch_mean=tokens.mismatch_mean if count else None,
            mismatch_max=tokens.mismatch_max if count else None,
            kl_mean=tokens.kl / count if count and tokens.kl is not None else None,
            grad_norm=sum(self.grad_norms) / len(self.grad_norms) if self.grad_norms else None,
            learning_rate=self.learning_rate if count else None,
            effective_sample_size=tokens.effective_sample_size,
            importance_masked_frac=tokens.masked / count if count and tokens.masked is not None else None,
        )
