"""Muon in float32. torch.optim.Muon orthogonalises in bfloat16, which a CPU without bfloat16 units does 40 times
slower (docs/decisions/0003-own-muon.md); this is the same rule on the processor's own number type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from deepscaler.training.products import product

# Quintic Newton-Schulz coefficients and momentum rule of Jordan et al. 2024, "Muon".
COEFFICIENTS = (3.4445, -4.775, 2.0315)
NS_STEPS = 5
Orthogonalise = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest semi-orthogonal matrix as the update, times sqrt(max(1, rows / columns)).

    orthogonalise: does that for all matrices of a step; nearly all of the step's work, which processes can share.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, orthogonalise: Orthogonalise | None = None
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self._orthogonalise = orthogonalise or orthogonalise_all

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient. Raises ValueError for a parameter that is not a matrix."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            updates = self._orthogonalise([self._with_momentum(p, group["momentum"]) for p in parameters])
            for parameter, update in zip(parameters, updates, strict=True):
                scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * scale)

    def _with_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        if parameter.dim() != 2:
            raise ValueError(f"Muon updates matrices, not tensors of shape {tuple(parameter.shape)}")
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def orthogonalise_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    return [orthogonalise(matrix) for matrix in matrices]


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximately U V^T of the singular value decomposition U S V^T; same shape and dtype as the input.

    One step turns X into (a I + b G + c G^2) X with G = X X^T; X has at least as many columns as rows.
    """
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.T.contiguous()
    for _ in range(NS_STEPS):
        gram = product(wide, wide)
        factor = product(gram, gram).mul_(c).add_(gram, alpha=b)  # the Gram matrix is its own transpose
        factor.diagonal().add_(a)
        wide = product(factor, wide.T)
    return wide if x.shape[0] <= x.shape[1] else wide.T


def orthogonalise_cost(matrix: Tensor) -> int:
    """Multiplications of one Newton-Schulz step, to share the work out."""
    small, large = sorted(matrix.shape)
    return small * small * (2 * large + small)
