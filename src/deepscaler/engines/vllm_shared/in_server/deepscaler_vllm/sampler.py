"""Changes to the logits and log-probabilities of vLLM's model runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NO_LOGIT = -1e30  # as in deepscaler.modeling.head


def mask_ids(model: Any, ids: Sequence[int]) -> None:
    """Mask the logits of these ids before temperature, top-k and log-probabilities."""
    if not ids:
        return
    compute, forbidden = model.compute_logits, torch.tensor(ids, dtype=torch.int64)

    def compute_logits(*arguments: Any, **named: Any) -> Any:
        logits = compute(*arguments, **named)
        return logits if logits is None else logits.index_fill_(1, forbidden.to(logits.device), NO_LOGIT)

    model.compute_logits = compute_logits


def report_untruncated(runner: Any) -> bool:
    """Have the sampler report log-probabilities of the temperature-scaled distribution *before* top-k and top-p.

    vLLM offers them before temperature (`raw`) or after top-k and top-p (`processed`). False where the sampler has
    another structure.
    """
    inner = getattr(getattr(runner, "sampler", None), "topk_topp_sampler", None)
    if inner is None or not hasattr(inner, "logprobs_mode"):
        return False
    draw = inner.forward
    inner.logprobs_mode = "raw_logprobs"  # skips its own computation

    def forward(logits: Tensor, generators: Any, k: Any, p: Any) -> tuple[Tensor, Tensor]:
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)  # before `draw` masks the logits in place
        return draw(logits, generators, k, p)[0], logprobs

    inner.forward = forward
    return True
