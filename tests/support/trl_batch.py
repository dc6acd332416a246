"""Sizes of the batch that TRL's trainer and ours are compared on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VOCABULARY, PAD, EOS, BUDGET, GROUP_SIZE = 11, 0, 1, 8, 3
LENGTHS = [[3, 8, 5], [1, 4, 8]]  # 8 = the budget: these completions were truncated
REWARDS = [[1.0, 0.0, 0.25], [0.0, 0.5, 0.0]]
NewTrainer = Callable[..., Any]
