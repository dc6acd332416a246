"""Muon in float32. torch.optim.Muon orthogonalises in bfloat16, which a CPU without bfloat16 units does 40 times
slower (docs/decisions/0003-own-muon.md); this is the same rule on the processor's own number type.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Quintic Newton-Schulz coefficients and momentum rule of Jordan et al. 2024, "Muon".
COEFFICIENTS = (3.4445, -4.775, 2.0315)
NS_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest semi-orthogonal matrix as the update, times sqrt(max(1, rows / columns))."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient. Raises ValueError for a parameter that is not a matrix."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.dim() != 2:
                    raise ValueError(f"Muon updates matrices, not tensors of shape {tuple(parameter.shape)}")
                state = self.state[parameter]
                buffer = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(buffer, group["momentum"]))
                scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximately U V^T of the singular value decomposition U S V^T; same shape and dtype as the input."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(NS_STEPS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T
