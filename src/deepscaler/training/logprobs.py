"""Log-probabilities and entropies of given tokens, in chunks: no vocabulary-sized logits for a whole sequence.

With logits z = h W^T / temperature, p = softmax(z), for target token y of each row:
    logprob = z_y - logsumexp(z)                        d logprob / dz = onehot(y) - p
    entropy = logsumexp(z) - sum_v p_v z_v              d entropy / dz = -p * (log p + entropy)
Up to KEPT_BYTES the forward keeps p for the backward, which then needs two matrix products a chunk. Above, the
backward makes the logits again, so memory grows with the chunk, not with tokens x vocabulary, for a third product.
C: completion tokens, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deepscaler.config import memory
from deepscaler.cpu import fused_ops
from deepscaler.cpu.matmul import matmul, weight_gradient
from deepscaler.modeling.head import float32_logits, leave_out

# Logits of one chunk: few enough to stay in the processor's cache while they are passed over, or to be small beside
# a GPU's memory; many enough rows that the weight is read seldom.
CHUNK_BYTES = {"cpu": memory.CHUNK_BYTES, "cuda": 512 * 2**20}
FEWEST_ROWS = 64
KEPT_BYTES = memory.KEPT_BYTES


def rows_per_chunk(vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits exist at once when the recipe does not say."""
    return max(FEWEST_ROWS, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cpu"]) // (4 * vocabulary))


def _chunks(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, count, max(rows, 1)):
        yield slice(start, min(start + rows, count))


def _logits(hidden: Tensor, weight: Tensor, temperature: float, wide: bool, forbidden: Tensor | None) -> Tensor:
    """float32 [rows, V]; the product itself is in the number type of `hidden` and `weight`, unless `wide`."""
    logits = leave_out(float32_logits(hidden, weight) if wide else matmul(hidden, weight).float(), forbidden)
    return logits if temperature == 1.0 else logits.div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk: int,
        wide: bool,
        forbidden: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        count, vocabulary = len(targets), len(weight)
        logprobs = torch.empty(count, dtype=torch.float32, device=hidden.device)
        entropies, log_sums = torch.empty_like(logprobs), torch.empty_like(logprobs)
        wanted = any(ctx.needs_input_grad)
        kept = logprobs.new_empty(count, vocabulary) if wanted and 4 * count * vocabulary <= KEPT_BYTES else None
        for rows in _chunks(count, chunk):
            logits = _logits(hidden[rows], weight, temperature, wide, forbidden)
            p = logits if kept is None else kept[rows]
            logprobs[rows], log_sums[rows], entropies[rows] = fused_ops.softmax(logits, targets[rows], p)
        ctx.save_for_backward(hidden, weight, targets, log_sums, entropies)
        ctx.temperature, ctx.chunk, ctx.wide, ctx.kept = temperature, chunk, wide, kept
        ctx.forbidden = forbidden
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_sums, entropies = ctx.saved_tensors
        grad_logprobs = torch.zeros_like(log_sums) if grads[0] is None else grads[0]
        kept, ctx.kept = ctx.kept, None  # overwritten below; a second backward makes the logits again
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None  # of a frozen head
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for rows in _chunks(len(targets), ctx.chunk if kept is None else len(targets)):
            if kept is None:
                logits = _logits(hidden[rows], weight, ctx.temperature, ctx.wide, ctx.forbidden)
                p = logits.sub_(log_sums[rows].unsqueeze(1)).exp_()
            else:
                p = kept
            scale = grad_logprobs[rows].unsqueeze(1) / ctx.temperature
            pull = None if grads[1] is None else grads[1][rows].unsqueeze(1) / ctx.temperature
            grad = _logit_gradient(p, scale, pull, entropies[rows].unsqueeze(1), targets[rows].unsqueeze(1))
            grad = grad.to(hidden.dtype)
            grad_hidden[rows] = matmul(grad, weight.T)
            if grad_weight is None:
                continue
            if grad.dtype == torch.float32 and kept is None:
                grad_weight.addmm_(grad.T, hidden[rows])  # a small product, added without a pass over the weight
            else:
                grad_weight += weight_gradient(grad, hidden[rows])
        of_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, of_weight, None, None, None, None, None


def _logit_gradient(p: Tensor, scale: Tensor, pull: Tensor | None, entropy: Tensor, target: Tensor) -> Tensor:
    """Gradient of the logits [rows, V], written over their probabilities `p`; the other arguments are [rows, 1].

    scale and pull are the gradients of log-probability and entropy, over the temperature.
    """
    if pull is None:
        grad = p.mul_(-scale)
    else:
        log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log_()
        grad = p.mul_(log_p.add_(entropy).mul_(-pull).sub_(scale))
    return grad.scatter_add_(1, target, scale)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    chunk_tokens: int | None = None,
    float32_logits: bool = False,
    forbidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability (nats) and entropy (nats) per token under softmax(hidden @ weight.T / temperature).

    hidden [C, width], weight [V, width] (cast to hidden's dtype), targets int64 [C]; results float32 [C]. To be
    called outside of autocast: the number type of `hidden` is that of the products. `chunk_tokens` absent: as many
    as `rows_per_chunk` says. float32_logits: logits of half precision are not rounded to it; the products of the
    backward are still in it. forbidden int64 [ids]: left out of the distribution (head.forbid_ids).
    """
    chunk = chunk_tokens or rows_per_chunk(len(weight), hidden.device)
    wide = float32_logits and hidden.dtype != torch.float32
    result = _TokenLogprobs.apply(hidden, weight.to(hidden.dtype), targets, temperature, chunk, wide, forbidden)
    assert isinstance(result, tuple)
    return result
