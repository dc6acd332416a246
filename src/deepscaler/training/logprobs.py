"""Log-probabilities and entropies of given tokens, in chunks: no vocabulary-sized logits for a whole sequence.

With logits z = h W^T / temperature, p = softmax(z), for target token y of each row:
    logprob = z_y - logsumexp(z)                        d logprob / dz = onehot(y) - p
    entropy = logsumexp(z) - sum_v p_v z_v              d entropy / dz = -p * (log p + entropy)
The backward recomputes the logits chunk by chunk, so memory grows with the chunk, not with tokens x vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _chunk_logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return (hidden @ weight.T).float().div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        log_sums = torch.empty_like(logprobs)
        for start in range(0, len(targets), chunk):
            rows = slice(start, start + chunk)
            logits = _chunk_logits(hidden[rows], weight, temperature)
            log_sum = torch.logsumexp(logits, dim=-1)
            chosen = logits.gather(1, targets[rows].unsqueeze(1)).squeeze(1)
            log_sums[rows] = log_sum
            logprobs[rows] = chosen - log_sum
            probabilities = torch.exp(logits - log_sum.unsqueeze(1))
            entropies[rows] = log_sum - (probabilities * logits).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, targets, log_sums, entropies)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_logprobs, grad_entropies = grads
        hidden, weight, targets, log_sums, entropies = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(targets), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            log_p = _chunk_logits(hidden[rows], weight, ctx.temperature).sub_(log_sums[rows].unsqueeze(1))
            p = torch.exp(log_p)
            grad = -(grad_entropies[rows].unsqueeze(1) * (log_p + entropies[rows].unsqueeze(1)))
            grad = (grad - grad_logprobs[rows].unsqueeze(1)) * p
            grad.scatter_add_(1, targets[rows].unsqueeze(1), grad_logprobs[rows].unsqueeze(1))
            grad = (grad / ctx.temperature).to(hidden.dtype)
            grad_hidden[rows] = grad @ weight
            grad_weight += (grad.T @ hidden[rows]).float()
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Log-probability (nats) and entropy (nats) per token under softmax(hidden @ weight.T / temperature).

    hidden [T, width], weight [vocabulary, width] (cast to hidden's dtype), targets int64 [T]; results float32 [T].
    """
    result = _TokenLogprobs.apply(hidden, weight.to(hidden.dtype), targets, temperature, chunk_tokens)
    assert isinstance(result, tuple)
    return result
