"""Progress a person can follow: one line that rewrites itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections import deque
from typing import TextIO

from deepscaler.config.sections.curriculum import StageSection
from deepscaler.evaluation.session import State
from deepscaler.observability import liveness
from deepscaler.observability.counts import counted
from deepscaler.observability.rollout_metrics import RolloutStats
from deepscaler.observability.terminal import control, shown
from deepscaler.types import Rollout

PLAIN_INTERVAL_S = 5.0
TERMINAL_INTERVAL_S = 0.2
LONG_STEP_S = 30.0
RECENT_STEPS = 20  # time left is judged by these, as completions grow and shrink over a run


def duration(seconds: float) -> str:
    """`75 s`, `6 min`, `39 h 45 min`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def speed(tokens_per_s: float) -> str:
    """`850 tok/s`, `12.3k tok/s`, `100k tok/s`."""
    if tokens_per_s < 999.5:
        return f"{tokens_per_s:.0f} tok/s"
    thousands = tokens_per_s / 1000
    return f"{thousands:.{0 if thousands >= 99.95 else 1}f}k tok/s"


class Progress:
    """Lines of at most 79 characters: stage, step, reward, mean length, truncated share, tokens/s, time left."""

    def __init__(self, stream: TextIO | None = None, *, terminal: bool | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._last_write = 0.0
        self._line_open = False
        self._step_times: deque[float] = deque(maxlen=RECENT_STEPS + 1)  # start of the first, then ends
        self._stage, self._step, self._num_steps = "", 0, 0
        self._sampled = 0
        self._whole: State | None = None  # shown for the last time
        self.warned: list[str] = []

    def message(self, text: str) -> None:
        """A line that stays; on a terminal broken between words, in a file whole, so that it can be searched for."""
        self._close_line()
        if self._terminal:
            width = max(40, shutil.get_terminal_size().columns)
            text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
        print(shown(text), file=self._stream, flush=True)

    def warning(self, text: str) -> None:
        """Print a warning at once and keep it, so that it is not repeated with the results."""
        self.warned.append(text)
        self.message(f"warning: {text}")

    def update(self, text: str, *, force: bool = False) -> None:
        """Show the current state, at intervals so that logs stay readable."""
        if not force and not self.due():
            return
        self._last_write = time.monotonic()
        text = shown(text).replace("\n", "\\x0a")
        if self._terminal:
            control(self._stream, "\r\x1b[2K")
            self._stream.write(text[:79])
            self._line_open = True
        else:
            self._stream.write(text[:79] + "\n")
        self._stream.flush()

    def start_step(self, step: int, num_steps: int, stage: StageSection) -> None:
        self._stage, self._step, self._num_steps = stage.name, step, num_steps
        self._sampled = 0
        if not self._step_times:
            self._step_times.append(time.monotonic())

    def end_step(self, step: int, stats: RolloutStats, sample_s: float) -> None:
        """sample_s: seconds that the step spent sampling."""
        self._step_times.append(time.monotonic())
        seconds_per_step = (self._step_times[-1] - self._step_times[0]) / (len(self._step_times) - 1)
        left = (self._num_steps - step) * seconds_per_step
        rate = stats.num_sampled_tokens / max(sample_s, 1e-9)
        reward = "-" if stats.reward_mean is None else f"{stats.reward_mean:.3f}"  # None: no grading reached a verdict
        self.update(
            f"{self._stage} {step}/{self._num_steps}  reward {reward}"
            f"  length {stats.length_mean:.0f}  truncated {stats.truncated_frac:3.0%}"
            f"  {speed(rate)}  left {duration(left)}",
            force=step == self._num_steps,
        )

    def on_rollout(self, rollout: Rollout) -> None:
        """Called for every completion; in a long step shows how many are sampled."""
        liveness.beat()
        self._sampled += 1
        if time.monotonic() - self._last_write >= LONG_STEP_S:
            self.update(f"{self._stage} {self._step}/{self._num_steps}  {counted(self._sampled, 'completion')} sampled")

    def session(self, state: State) -> None:
        """Show the state of an evaluation: samples, rate, tokens, score so far, time left.

        Short completions finish first and are more often right, so a count is shown at first. Pass@1 and its interval
        follow once every problem has a graded sample.
        """
        liveness.beat()
        last = state.num_graded == state.num_completions
        if state is self._whole or not (last or self.due()):
            return
        self._whole = state if last else None
        e = state.running
        running = f"  so far {state.num_right} of {state.num_graded} right" if state.num_graded else ""
        if e is not None:
            running = f"  so far {100 * e.mean:.1f}% [{100 * e.low:.1f}, {100 * e.high:.1f}]"
        left = "-" if state.seconds_left is None else duration(state.seconds_left)
        tokens = f"  {speed(state.num_tokens / max(state.seconds, 1e-9))}" if state.num_tokens else ""
        self.update(
            f"eval {state.num_done}/{state.num_completions}  {state.per_second:.1f}/s{running}{tokens}  left {left}",
            force=True,
        )

    def due(self) -> bool:
        return time.monotonic() - self._last_write >= (TERMINAL_INTERVAL_S if self._terminal else PLAIN_INTERVAL_S)

    def end_evaluation(self, mean: float, low: float, high: float) -> None:
        self.message(f"Pass@1 {mean:.1%}  [{low:.1%}, {high:.1%}]")

    def _close_line(self) -> None:
        if self._line_open:
            self._stream.write("\n")
            self._line_open = False
