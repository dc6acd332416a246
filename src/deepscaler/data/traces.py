"""Worked solutions in the manner of a verbose distilled model: some steps spelled out, some leapt, some redone.

    a+25=62;                          a leapt step: right most of the time, or a slip
    a37+25:7+5=12,3+2+1=6=62;         the same step spelled out digit by digit
"""

from __future__ import annotations

import numpy as np

from deepscaler.config.models import SftSection
from deepscaler.data.synthetic import MODULUS, Chain, Operation

FILLERS = ("Hmm. ", "Okay, ", "Let me see. ", "So ", "Right. ")
REDO = "Wait, "
RESTART = "Let me start over. "


def worked_solution(chain: Chain, style: SftSection, rng: np.random.Generator) -> str:
    """The completion after the prefilled `<think>`: thoughts, `</think>`, and the boxed answer.

    The answer is the state the thoughts arrived at, which an uncorrected slip makes wrong.
    """
    writer = _Writer(style, rng)
    if rng.random() < style.restart_frac:
        stop = int(rng.integers(1, len(chain.operations) + 1))
        writer.walk(chain.start, chain.operations[:stop])
        writer.parts.append(RESTART)
    state = writer.walk(chain.start, chain.operations)
    return f"{''.join(writer.parts)}</think>\\boxed{{{state:02d}}}"


class _Writer:
    def __init__(self, style: SftSection, rng: np.random.Generator) -> None:
        self._style, self._rng = style, rng
        self.parts: list[str] = []

    def _happens(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def walk(self, state: int, operations: tuple[Operation, ...]) -> int:
        """Write the given steps from `state`; returns the state they end in."""
        for operation in operations:
            state = self._step(state, operation)
        return state

    def _step(self, state: int, operation: Operation) -> int:
        style = self._style
        if self._happens(style.filler_frac):
            self.parts.append(FILLERS[int(self._rng.integers(len(FILLERS)))])
        result, slipped = self._write(state, operation)
        if self._happens(style.redo_frac):
            self.parts.append(REDO)
            result, slipped = self._write(state, operation)
        # A spiral: the same step over and over, likelier when something is off. Most of them never get out.
        if self._happens(style.spiral_enter * (3 if slipped else 1)):
            while self._happens(style.spiral_stay):
                self.parts.append(REDO)
                result, _ = self._write(state, operation)
        return result

    def _write(self, state: int, operation: Operation) -> tuple[int, bool]:
        """One writing of a step: (the state it claims, whether that is a slip)."""
        right = operation.apply(state)
        if self._happens(self._style.spelled_frac):
            self.parts.append(spelled(state, operation))
            return right, False
        claimed = self._slip(right) if self._happens(self._style.slip_frac) else right
        self.parts.append(f"{operation}={claimed:02d};")
        return claimed, claimed != right

    def _slip(self, right: int) -> int:
        """A near miss: one digit off by a little."""
        return (right + int(self._rng.choice([-20, -10, -2, -1, 1, 2, 10, 20]))) % MODULUS


def spelled(state: int, operation: Operation) -> str:
    """One step digit by digit with carries, e.g. `a37+25:7+5=12,3+2+1=6=62;`. Always right."""
    tens, ones = divmod(state, 10)
    result = operation.apply(state)
    if operation.symbol == "*":
        low = ones * operation.operand
        high = tens * operation.operand + low // 10
        work = f"{ones}*{operation.operand}={low:02d},{tens}*{operation.operand}+{low // 10}={high:02d}"
    else:
        other_tens, other_ones = divmod(operation.operand, 10)
        if operation.symbol == "+":
            low = ones + other_ones
            carry = low // 10
            work = f"{ones}+{other_ones}={low:02d},{tens}+{other_tens}+{carry}={(tens + other_tens + carry) % 10}"
        else:
            borrow = int(ones < other_ones)
            low = ones - other_ones + 10 * borrow
            high = (tens - other_tens - borrow) % 10
            work = f"{borrow}{ones}-{other_ones}={low},{tens}-{other_tens}-{borrow}={high}"
    return f"{operation.label}{state:02d}{operation.symbol}{operation.operand}:{work}={result:02d};"
