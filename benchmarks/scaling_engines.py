"""Simulated engines that decode many sequences at once, compiled by numba; time goes from one event to the next.

The state of engine e is in element e of the arrays of `Engines`; the functions change it in place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scaling_costs import CACHE_TOKENS, MAX_ROWS, Costs, Floats

ADMIT_TOKENS = 2048  # that the cache must still hold when a sequence is admitted


class Engines(NamedTuple):
    """One GPU each. steps: decode steps since the beginning, a real number; clock: when they were done, in seconds.

    A sequence in one of the first `rows` columns ends at step `ends` with `final` tokens in the cache; `number` is its
    name. following: time of the next completion. rates: seconds of a step, for a row, for a token of context, and for
    a token of context that is computed again.
    """

    clock: Floats
    steps: Floats
    context: Floats
    rows: NDArray[np.int64]
    following: Floats
    ends: Floats
    final: Floats
    number: NDArray[np.int64]
    rates: tuple[float, float, float, float]
    prompt: float


def make_engines(costs: Costs, count: int, prompt: int) -> Engines:
    return Engines(
        clock=np.zeros(count),
        steps=np.zeros(count),
        context=np.zeros(count),
        rows=np.zeros(count, np.int64),
        following=np.full(count, np.inf),
        ends=np.zeros((count, MAX_ROWS)),
        final=np.zeros((count, MAX_ROWS)),
        number=np.zeros((count, MAX_ROWS), np.int64),
        rates=(costs.step, costs.row, costs.context, costs.recompute),
        prompt=float(prompt),
    )


@njit
def run_until(engines, e, time):
    """Decode up to this time; a pause may have put the clock beyond it already."""
    if time <= engines.clock[e]:
        return
    if engines.rows[e] > 0:
        per_step, growth = _step_seconds(engines, e)
        elapsed = time - engines.clock[e]
        steps = (math.sqrt(per_step**2 + 2 * growth * elapsed) - per_step) / growth
        engines.steps[e] += steps
        engines.context[e] += steps * engines.rows[e]
    engines.clock[e] = time


@njit
def _step_seconds(engines, e):
    """Of the next step, and by how much each further one takes longer."""
    step, row, context, _ = engines.rates
    return step + row * engines.rows[e] + context * engines.context[e], context * engines.rows[e]


@njit
def predict(engines, e):
    """Set when the next sequence of an engine ends."""
    if engines.rows[e] == 0:
        engines.following[e] = math.inf
        return
    steps = engines.ends[e, : engines.rows[e]].min() - engines.steps[e]
    per_step, growth = _step_seconds(engines, e)
    engines.following[e] = engines.clock[e] + steps * (per_step + growth * steps / 2)


@njit
def complete(engines, e):
    """Go on to the next completion of an engine; returns the sequence's number."""
    rows = engines.rows[e]
    row = engines.ends[e, :rows].argmin()
    number, end = engines.number[e, row], engines.ends[e, row]
    engines.context[e] += (end - engines.steps[e]) * rows - engines.final[e, row]
    engines.steps[e], engines.clock[e] = end, engines.following[e]
    for columns in (engines.ends, engines.final):
        columns[e, row] = columns[e, rows - 1]
    engines.number[e, row] = engines.number[e, rows - 1]
    engines.rows[e] = rows - 1
    predict(engines, e)
    return number


@njit
def admit(engines, tokens, first, last, now):
    """Sequences first to last - 1 go to the engines with the fewest, while one has room; the first that has to wait."""
    while first < last:
        chosen = -1
        for e in range(len(engines.rows)):
            room = engines.rows[e] < MAX_ROWS and engines.context[e] + ADMIT_TOKENS <= CACHE_TOKENS
            if room and (chosen < 0 or engines.rows[e] < engines.rows[chosen]):
                chosen = e
        if chosen < 0:
            break
        run_until(engines, chosen, now)
        row = engines.rows[chosen]
        engines.ends[chosen, row] = engines.steps[chosen] + tokens[first]
        engines.final[chosen, row] = engines.prompt + tokens[first]
        engines.number[chosen, row] = first
        engines.context[chosen] += engines.prompt
        engines.rows[chosen] += 1
        predict(engines, chosen)
        first += 1
    return first


@njit
def interrupt(engines, now, seconds, recompute):
    """New weights: nothing is decoded for so long; with `recompute` the cache is made again."""
    for e in range(len(engines.rows)):
        run_until(engines, e, now)
        engines.clock[e] += seconds
        if recompute:
            engines.clock[e] += engines.rates[3] * engines.context[e]
        predict(engines, e)


@njit
def completion_times(engines, tokens):
    """[len(tokens)] seconds until each sequence ends, all of them waiting from the beginning."""
    times = np.zeros(len(tokens))
    waiting, now = 0, 0.0
    for _ in range(len(tokens)):
        waiting = admit(engines, tokens, waiting, len(tokens), now)
        e = engines.following.argmin()
        now = engines.following[e]
        times[complete(engines, e)] = now
    return times


@njit
def most_loaded(seconds, ranks):
    """Of the rank with the most to do; the longest are dealt first, each to the least loaded rank."""
    loads = np.zeros(ranks)
    for each in -np.sort(-seconds):
        loads[loads.argmin()] += each
    return loads.max()
