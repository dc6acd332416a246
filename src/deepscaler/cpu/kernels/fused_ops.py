"""Kernels of the elementwise and row-wise operations between a layer's matrix products: float32, each one pass.

torch makes three to seven passes over memory of each, and a third of an update of a small model is spent in them.
Arrays are C-contiguous. T tokens (or rows), W width, D head width, V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from deepscaler.cpu.kernels.vectors import (
    MAX,
    SUM,
    Float32Array,
    Int64Array,
    Vector,
    array,
    device_function,
    elementwise,
    kernel,
)

_ROW, _ROWS, _INTEGERS = array(types.float32, 1), array(types.float32, 2), array(types.int64, 1)
_FEW = 64  # rows
_CHUNK = 64  # tokens of the vocabulary
_squares = elementwise(lambda x: x * x, inputs=1, reduce=SUM)
_added = elementwise(lambda x, y: (x + y, (x + y) * (x + y)), inputs=2, outputs=1, reduce=SUM)
_normed = elementwise(lambda x, weight, inverse: x * inverse * weight, inputs=2, outputs=1, scalars=1)


@device_function
def _norm_row(squares: float, hidden: int, weight: int, eps: float, out: int, width: int) -> np.float32:
    inverse = np.float32(1.0 / math.sqrt(squares / width + eps))
    _normed(width, hidden, weight, out, inverse)
    return inverse


@kernel(_ROWS, _ROW, types.float32, _ROWS, _ROW)
def rms_norm(x: Float32Array, weight: Float32Array, eps: float, out: Float32Array, inverse: Float32Array) -> None:
    """out [T,W] := x * inverse * weight, where inverse [T] = 1 / sqrt(mean of x**2 + eps)."""
    width, step = x.shape[1], 4 * x.shape[1]
    at, to, weights = x.ctypes.data, out.ctypes.data, weight.ctypes.data
    for row in range(len(x)):
        inverse[row] = _norm_row(_squares(width, at), at, weights, eps, to, width)
        at, to = at + step, to + step


@kernel(_ROWS, _ROWS, _ROW, types.float32, _ROWS, _ROWS, _ROW)
def add_rms_norm(
    x: Float32Array,
    branch: Float32Array,
    weight: Float32Array,
    eps: float,
    hidden: Float32Array,
    out: Float32Array,
    inverse: Float32Array,
) -> None:
    """hidden := x + branch, and its norm as `rms_norm`."""
    width, step = x.shape[1], 4 * x.shape[1]
    first, second, at, to = x.ctypes.data, branch.ctypes.data, hidden.ctypes.data, out.ctypes.data
    for row in range(len(x)):
        squares = _added(width, first, second, at)
        inverse[row] = _norm_row(squares, at, weight.ctypes.data, eps, to, width)
        first, second, at, to = first + step, second + step, at + step, to + step


def _norm_gradient(
    residual: Vector, grad: Vector, x: Vector, weight: Vector, total: Vector, inverse: Vector, pull: Vector
) -> tuple[Vector, Vector]:
    return residual + grad * weight * inverse - x * pull, total + grad * x * inverse


_pulled = elementwise(lambda grad, x, weight: grad * x * weight, inputs=3, reduce=SUM)
_norm_gradients = elementwise(_norm_gradient, inputs=5, outputs=2, scalars=2)


@kernel(_ROWS, _ROWS, _ROWS, _ROW, _ROW, _ROWS, _ROW)
def rms_norm_backward(
    residual: Float32Array,
    grad: Float32Array,
    x: Float32Array,
    weight: Float32Array,
    inverse: Float32Array,
    grad_x: Float32Array,
    grad_weight: Float32Array,
) -> None:
    """grad_x [T,W] := residual + the gradient of `rms_norm`'s input; grad_weight [W] is added to."""
    width, step = x.shape[1], 4 * x.shape[1]
    few = np.zeros(width, np.float32)  # the sum over few rows, so that rounding stays that of few additions
    weights, total = weight.ctypes.data, few.ctypes.data
    kept, at, of, to = residual.ctypes.data, grad.ctypes.data, x.ctypes.data, grad_x.ctypes.data
    for row in range(len(x)):
        pull = np.float32(_pulled(width, at, of, weights) * inverse[row] ** 3 / width)
        _norm_gradients(width, kept, at, of, weights, total, to, total, inverse[row], pull)
        kept, at, of, to = kept + step, at + step, of + step, to + step
        if row % _FEW == _FEW - 1 or row == len(x) - 1:
            grad_weight += few
            few[:] = np.float32(0.0)


def _sigmoid(x: Vector) -> Vector:
    return 1.0 / ((-x).exp() + 1.0)


def _silu_mul_gradient(grad: Vector, gate: Vector, up: Vector) -> tuple[Vector, Vector]:
    share = _sigmoid(gate)
    return grad * up * share * (gate * (1.0 - share) + 1.0), grad * gate * share


_silu_muls = elementwise(lambda gate, up: gate * _sigmoid(gate) * up, inputs=2, outputs=1)
_silu_mul_gradients = elementwise(_silu_mul_gradient, inputs=3, outputs=2)


@kernel(_ROWS, _ROWS, _ROWS)
def silu_mul(gates: Float32Array, ups: Float32Array, out: Float32Array) -> None:
    """out := silu(gates) * ups."""
    _silu_muls(gates.size, gates.ctypes.data, ups.ctypes.data, out.ctypes.data)


@kernel(_ROWS, _ROWS, _ROWS, _ROWS, _ROWS)
def silu_mul_backward(
    grad: Float32Array, gates: Float32Array, ups: Float32Array, grad_gates: Float32Array, grad_ups: Float32Array
) -> None:
    _silu_mul_gradients(
        gates.size, grad.ctypes.data, gates.ctypes.data, ups.ctypes.data, grad_gates.ctypes.data, grad_ups.ctypes.data
    )


def _rotation(x: Vector, y: Vector, cos: Vector, sin: Vector, sign: Vector) -> tuple[Vector, Vector]:
    return x * cos - y * sin * sign, y * cos + x * sin * sign


_rotations = elementwise(_rotation, inputs=4, outputs=2, scalars=1)


@kernel(_ROWS, _ROWS, _ROWS, types.float32, _ROWS)
def rotary(x: Float32Array, cos: Float32Array, sin: Float32Array, sign: float, out: Float32Array) -> None:
    """Rotary embedding of every head of x [T, heads * D]; cos and sin [T,D], halves alike; sign -1 rotates back."""
    width = cos.shape[1]
    half = width // 2
    for row in range(len(x)):
        cosines, sines = cos[row].ctypes.data, sin[row].ctypes.data
        at, to = x[row].ctypes.data, out[row].ctypes.data
        for _ in range(x.shape[1] // width):
            _rotations(half, at, at + 4 * half, cosines, sines, to, to + 4 * half, sign)
            at, to = at + 4 * width, to + 4 * width


_largest = elementwise(lambda x: x, inputs=1, reduce=MAX)
_exponentials = elementwise(lambda x, most: (x - most).exp(), inputs=1, scalars=1, reduce=SUM)


def _entropy_part(x: Vector, log_sum: Vector) -> tuple[Vector, Vector]:
    log_p = x - log_sum
    p = log_p.exp()
    return p, p * log_p


_probabilities = elementwise(_entropy_part, inputs=1, outputs=1, scalars=1, reduce=SUM)


@kernel(_ROWS, _INTEGERS, _ROWS, _ROW, _ROW, _ROW)
def softmax(
    logits: Float32Array,
    targets: Int64Array,
    p: Float32Array,
    logprobs: Float32Array,
    log_sums: Float32Array,
    entropies: Float32Array,
) -> None:
    """p [T,V] := softmax of logits (may be the same array); of each row log p of the target, logsumexp and entropy."""
    width = logits.shape[1]
    for row in range(len(logits)):
        at, chosen = logits[row].ctypes.data, logits[row, targets[row]]
        most = _largest(width, at)
        log_sum = most + np.float32(math.log(_exponentials(width, at, most)))
        entropies[row] = -_probabilities(width, at, p[row].ctypes.data, log_sum)
        log_sums[row], logprobs[row] = log_sum, chosen - log_sum


_powers = elementwise(lambda x, most: ((x - most).exp(),) * 2, inputs=1, outputs=1, scalars=1, reduce=SUM)


@device_function
def _first_above(weights: Float32Array, threshold: float) -> int:
    """Where the running sum first exceeds the threshold; if rounding keeps it below, the last that has any weight."""
    total, found = np.float32(0.0), 0
    for column in range(len(weights)):
        total += weights[column]
        if weights[column] > 0.0:
            found = column
            if total > threshold:
                break
    return found


@kernel(_ROWS, _ROW, _INTEGERS, _ROW)
def sample(logits: Float32Array, uniforms: Float32Array, tokens: Int64Array, logprobs: Float32Array) -> None:
    """tokens [N] := where the running sum of softmax of logits [N,V] first exceeds uniform [N]; logprobs [N] theirs.

    Searched in chunks, then inside the chunk: adding up in two levels is faster and rounds less than one long sum.
    """
    width = logits.shape[1]
    weights = np.empty(width, np.float32)
    running = np.empty((width + _CHUNK - 1) // _CHUNK, np.float32)
    for row in range(len(logits)):
        most, total = _largest(width, logits[row].ctypes.data), np.float32(0.0)
        for chunk in range(len(running)):
            first = chunk * _CHUNK
            count = min(_CHUNK, width - first)
            total += _powers(count, logits[row, first:].ctypes.data, weights[first:].ctypes.data, most)
            running[chunk] = total
        # At least 0 and strictly below the total, so that the first sum above it exists and its weight is positive.
        threshold = min(max(uniforms[row] * total, np.float32(0.0)), np.nextafter(total, np.float32(0.0)))
        chunk = 0
        while chunk < len(running) - 1 and not running[chunk] > threshold:
            chunk += 1
        first = chunk * _CHUNK
        threshold -= running[chunk - 1] if chunk else np.float32(0.0)
        tokens[row] = first + _first_above(weights[first : first + _CHUNK], threshold)
        logprobs[row] = logits[row, tokens[row]] - most - np.float32(math.log(total))
