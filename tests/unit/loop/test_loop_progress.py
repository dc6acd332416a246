"""What a person sees while it runs: everything named, at most 79 columns, plain lines where there is no terminal."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest

from deepscaler.config.sections.curriculum import StageSection
from deepscaler.evaluation.completions import Key
from deepscaler.evaluation.estimators import estimate
from deepscaler.evaluation.session import State, Tally
from deepscaler.loop.progress import LONG_STEP_S, Progress, duration
from deepscaler.loop.stop import StopRequest
from deepscaler.observability.rollout_metrics import rollout_stats
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup, Verdict

STAGE = StageSection(name="24k", max_completion_tokens=24576)
IDS = np.zeros(3, np.int32)
ROLLOUT = Rollout("p", 0, IDS, IDS, np.zeros(3, np.float32), FinishReason.STOP, 0)
GROUP = ScoredGroup(Group(Problem("p", "p", ("1",)), (ROLLOUT,)), ("",), (Verdict(Outcome.CORRECT, 1.0),))
STATS = replace(
    rollout_stats([GROUP]), num_sampled_tokens=9_999_999, reward_mean=0.123, length_mean=12345.0, truncated_frac=1.0
)
SAMPLE_S = 100.0


def test_a_step_shows_stage_step_reward_length_cut_speed_and_time_left() -> None:
    out = StringIO()
    progress = Progress(out, terminal=False)
    progress.start_step(1750, 1750, STAGE)
    progress.end_step(1750, STATS, SAMPLE_S)
    (line,) = out.getvalue().splitlines()
    for part in ("24k", "step 1750/1750", "reward 0.123", "length 12345", "cut 100%", "100k tok/s", "left 0 s"):
        assert part in line
    assert len(line) <= 79


def test_without_a_terminal_lines_are_plain_and_few() -> None:
    out = StringIO()
    progress = Progress(out, terminal=False)
    for step in range(1, 200):
        progress.start_step(step, 1000, STAGE)
        progress.end_step(step, STATS, SAMPLE_S)
    assert len(out.getvalue().splitlines()) <= 2
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_on_a_terminal_one_line_rewrites_itself_and_messages_stay() -> None:
    out = StringIO()
    progress = Progress(out, terminal=True)
    progress.update("first", force=True)
    progress.update("second " + "x" * 200, force=True)
    progress.message("kept")
    text = out.getvalue()
    assert text.count("\r") >= 2
    assert text.endswith("kept\n") and "\nkept" in text
    assert max(len(part) for part in text.replace("\r", "\n").replace("\x1b[2K", "").split("\n")) <= 79


def test_a_long_step_says_how_far_it_is_and_a_short_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = StringIO(), [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(out, terminal=False)
    progress.update("before", force=True)
    progress.start_step(3, 12, STAGE)
    progress.on_rollout(ROLLOUT)
    assert out.getvalue() == "before\n"
    now[0] += LONG_STEP_S
    progress.on_rollout(ROLLOUT)
    progress.on_rollout(ROLLOUT)
    assert out.getvalue().splitlines()[1:] == [f"{STAGE.name} step 3/12  2 completions sampled"]
    progress.end_evaluation(0.25, 0.2, 0.3)
    assert out.getvalue().splitlines()[-1] == "Pass@1 25.0%  [20.0%, 30.0%]"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "75 s"), (342, "6 min"), (3725, "1 h 2 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_first_signal_asks_and_the_second_interrupts(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested and stop.signal_number == signal.SIGTERM
        assert "SIGTERM: finishing this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_time_left_counts_steps_only_not_what_ran_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("deepscaler.loop.progress.time.monotonic", lambda: now)
    out = StringIO()
    progress = Progress(out, terminal=False)
    now = 1000.0  # a base model was made and evaluated
    for step in range(1, 31):
        progress.start_step(step, 60, STAGE)
        now += 10.0 if step <= 5 else 2.0  # the first steps are long ones
        progress.end_step(step, STATS, SAMPLE_S)
    last = out.getvalue().splitlines()[-1]
    assert "step 30/60" in last or "step 29/60" in last or "step 28/60" in last
    seconds = duration(2.0 * (60 - int(last.split("/")[0].split()[-1])))
    assert last.endswith(f"left {seconds}")


def test_an_evaluation_shows_samples_rate_running_score_and_time_left() -> None:
    out = StringIO()
    state = State(24960, num_before=0, num_done=24960, num_graded=24960, num_tokens=10**9)
    state.started = time.monotonic() - 99_999
    state.running = estimate(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    Progress(out, terminal=False).session(state)
    (line,) = out.getvalue().splitlines()
    for part in ("eval 24960/24960", "/s", "so far 50.0% [", "tok/s", "left 0 s"):
        assert part in line
    assert len(line) <= 79


def shown(state: State) -> str:
    out = StringIO()
    Progress(out, terminal=False).session(state)
    return out.getvalue()


def test_the_first_samples_are_counted_and_promise_nothing() -> None:
    state = State(6240, num_before=0, num_done=3, num_graded=3, num_right=2, num_tokens=900)
    state.started = time.monotonic() - 30
    assert "so far 2 of 3 right" in shown(state) and "[" not in shown(state)
    assert "30 tok/s" in shown(state) and "left -" in shown(state)
    state.num_done = 40
    assert "left 1 h 1" in shown(state)


def test_the_score_so_far_waits_for_every_problem() -> None:
    """13.7% [0, 100] was the average over sets of which one had a single answer."""
    tally = Tally(3)
    verdicts = {right: Verdict(Outcome.CORRECT if right else Outcome.WRONG, float(right)) for right in (True, False)}
    tally.add(Key("a", "0", 0), verdicts[True])
    tally.add(Key("b", "0", 0), verdicts[False])
    assert tally.running() is None and tally.num_right == 1
    tally.add(Key("b", "1", 0), verdicts[True])
    running = tally.running()
    assert running is not None and running.mean == 0.75


@pytest.mark.parametrize("columns", [80, 60])
def test_messages_break_between_words_on_a_terminal_and_nowhere_in_a_file(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = " ".join(["a-long-word"] * 30)
    out, log = StringIO(), StringIO()
    Progress(out, terminal=True).warning(text)
    Progress(log, terminal=False).warning(text)
    lines = out.getvalue().splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= columns and " ".join(lines) == f"warning: {text}"
    assert log.getvalue() == f"warning: {text}\n"


def test_an_evaluation_that_only_grades_has_nothing_left_to_generate() -> None:
    assert "left 0 s" in shown(State(5, num_before=5, num_done=5, num_graded=5))
