"""What learner and engine both do to the logits of the vocabulary head: float32, and no ids without a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.modeling.meta_init import device_of

NO_LOGIT = -1e30  # exp of it is 0, and unlike infinity it makes no NaN of 0 * log(0)
_FORBIDDEN = "forbidden_ids"


def float32_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden weight^T, float32 [N,V]: hidden [N,I] and weight [V,I] of one type, sums and result in float32.

    In half precision that is what rounding the logits would lose: a product of two bfloat16 numbers is exact in
    float32. On CUDA the tensor cores do it at the same rate (`out_dtype`); on CPU the factors are widened first.
    """
    if hidden.dtype == torch.float32:
        return F.linear(hidden, weight)
    if hidden.is_cuda:
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)
    return F.linear(hidden.float(), weight.float())


def forbid_ids(model: Any, ids: Sequence[int]) -> None:
    """Leave these ids out of the model's distribution, in everything that computes logits with `forbidden_ids`.

    Heads are padded to round sizes. An id without a token has no text, so nobody would see it in a completion, and it
    would be trained on. Kept as a buffer: copies of the model and other processes have it as well, files do not.
    """
    if ids:
        device = device_of(model)
        model.register_buffer(_FORBIDDEN, torch.tensor(ids, dtype=torch.int64, device=device), persistent=False)


def forbidden_ids(model: Any) -> Tensor | None:
    """int64 [ids], None where every id is a token."""
    return getattr(model, _FORBIDDEN, None)


def leave_out(logits: Tensor, ids: Tensor | None) -> Tensor:
    """Give these ids no probability, in place: logits [N,V] of any number type."""
    return logits if ids is None else logits.index_fill_(1, ids, NO_LOGIT)
