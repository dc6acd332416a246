"""Worked solutions in the manner of a verbose distilled model: some steps spelled out, some leapt, some redone.

    37a+25=62;                          the start, then a leapt step: often a slip, after training too
    37a+25:7+5=12,3+2+1=6=62;           the same step spelled out digit by digit, which is learned reliably
    b*7=34;Wait 62b*7=34;               a step written again; `Wait`, fillers and restarts repeat the state

A step follows the state it starts from, which is the result of the step before it or precedes it.
"""

from __future__ import annotations

import numpy as np

from deepscaler.config.sections.model import SftSection
from deepscaler.data.sources.synthetic import MODULUS, Chain, Operation

FILLERS = ("Hmm ", "Okay ", "Let me see ", "So ", "Right ")
REDO = "Wait "
RESTART = "Again "
WORDS = (*FILLERS, REDO, RESTART)


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
        self.parts.append(f"{state:02d}")
        for operation in operations:
            state = self._step(state, operation)
        return state

    def _step(self, state: int, operation: Operation) -> int:
        style = self._style
        if self._happens(style.filler_frac):
            self.parts.append(f"{FILLERS[int(self._rng.integers(len(FILLERS)))]}{state:02d}")
        result, slipped = self._write(state, operation)
        if self._happens(style.repair_frac if slipped else style.redo_frac):
            result, slipped = self._again(state, operation)
        # A spiral: the same step over and over, likelier when something is off. Most of them never get out.
        if self._happens(style.spiral_enter * (3 if slipped else 1)):
            while self._happens(style.spiral_stay):
                result, _ = self._again(state, operation)
        return result

    def _again(self, state: int, operation: Operation) -> tuple[int, bool]:
        self.parts.append(f"{REDO}{state:02d}")
        return self._write(state, operation)

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
        """A near miss: one digit off by one or two."""
        return (right + int(self._rng.choice([-20, -10, -2, -1, 1, 2, 10, 20]))) % MODULUS


def spelled(state: int, operation: Operation) -> str:
    """One step digit by digit with carries, e.g. `a+25:7+5=12,3+2+1=6=62;` from 37. Always right."""
    tens, ones = divmod(state, 10)
    if operation.symbol == "*":
        low, part = ones * operation.operand, tens * operation.operand
        carry = low // 10
        high = part % 10 + carry
        work = f"{ones}*{operation.operand}={low:02d},{tens}*{operation.operand}={part:02d},"
        work += f"{part % 10}+{carry}={high % 10}"
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
    return f"{operation}:{work}={operation.apply(state):02d};"
