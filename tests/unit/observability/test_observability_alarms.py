"""Each alarm fires on the fault it is for, and none fires on a healthy run."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from deepscaler.config.sections.training import AlarmSection
from deepscaler.observability.alarms import MISMATCH_LIMITS, RULES, Alarms
from deepscaler.observability.step_stats import StepStats
from made_steps import NOTHING, WINDOW, Fault, fired, steps_of

SKIPPED: Fault = {"num_updates": 0, "skipped_updates": 1, "grad_norm": None}
# name, fault of every step, steps in a row until it fires
IN_A_ROW: list[tuple[str, Fault, int]] = [
    (
        "reward_all_zero",
        {"reward_mean": 0.0, "solved_frac": 0.0, "num_rewarded": 0, "num_signal": 0, "correct_advantage": None},
        10,
    ),
    (
        "reward_all_one",
        {"reward_mean": 1.0, "solved_frac": 1.0, "num_rewarded": 100, "num_signal": 0, "correct_advantage": None},
        10,
    ),
    ("no_signal", {"num_signal": 0, "correct_advantage": None}, 10),
    ("gate_failed", {"no_answer_frac": 0.95}, 5),
    ("truncation", {"truncated_frac": 0.95}, 10),
    ("mismatch", {"mismatch_mean": 0.02}, 5),
    ("mismatch", {"mismatch_mean": float("nan")}, 5),
    ("policy_lag", {"policy_lag": 2}, 5),
    ("effective_sample_size", {"effective_sample_size": 0.49}, 5),
    ("effective_sample_size", {"effective_sample_size": float("nan")}, 5),
    ("zero_gradient", {"grad_norm": 0.0}, 3),
    ("zero_learning_rate", {"learning_rate": 0.0}, 3),
    ("entropy_low", {"entropy_mean": 0.001}, 10),
    ("entropy_high", {"entropy_mean": 9.0}, 10),
    ("reward_sign", {"correct_advantage": -1.9}, 1),
    ("kl_negative", {"kl_mean": -0.001}, 1),
]
# name, fault of every step, step at which it fires: these look at the last window or at the step before
OVER_STEPS: list[tuple[str, Fault, int]] = [
    ("grader_trouble", {"num_failed_gradings": 1}, 10),
    ("bad_references", {"num_bad_references": 1}, 10),
    ("reward_trouble", {"num_failed_rewards": 1}, 10),
    ("reward_by_chance", {"reward_mean": 0.01, "num_rewarded": 1, "chance_correct": 1.1}, 12),
    ("reward_near_chance", {"reward_mean": 0.25, "num_rewarded": 25, "chance_correct": 25.0}, 12),
    ("same_problems", {"problems": "the same"}, 4),
    ("weights_unchanged", {"weights": "the same"}, 4),
    ("kl_zero", {"kl_mean": 0.0}, 11),
    ("repeated_draws", {"num_compared": 8, "num_repeated": 4, "repeats_by_chance": 0.1}, 2),
]


@pytest.mark.parametrize(("name", "fault", "after"), IN_A_ROW)
def test_a_planted_fault_raises_its_alarm_once_and_only_it(name: str, fault: Fault, after: int) -> None:
    assert fired(*[fault] * 40) == [(after, name)]
    assert fired(*[fault] * (after - 1), NOTHING, *[fault] * (after - 1)) == []


@pytest.mark.parametrize(("name", "fault", "step"), OVER_STEPS)
def test_a_fault_that_shows_over_several_steps_raises_its_alarm_once_and_only_it(
    name: str, fault: Fault, step: int
) -> None:
    assert fired(*[fault] * 40) == [(step, name)]
    assert fired(*[fault] * (step - 1)) == []


def test_every_alarm_is_planted_here() -> None:
    planted = {name for name, _, _ in (*IN_A_ROW, *OVER_STEPS)}
    others = {"skipped_updates", "often_skipped", "no_verdicts", "no_rewards", "collapse"}
    assert planted | others == {rule.name for rule in RULES}


def test_skipped_updates_are_reported_and_five_steps_of_them_are_the_end() -> None:
    assert fired(*[SKIPPED] * 40) == [(4, "often_skipped"), (5, "skipped_updates")]


def test_half_of_all_updates_skipped_is_noticed_though_never_two_in_a_row() -> None:
    assert fired(*[SKIPPED, NOTHING] * 10) == [(7, "often_skipped")]
    assert fired(*[SKIPPED, *[NOTHING] * 9] * 4) == []  # one of ten: a spike now and then


def test_gradings_that_never_reach_a_verdict_are_the_end() -> None:
    fault = {
        "num_failed_gradings": 80,
        "num_bad_references": 5,
        "reward_mean": None,
        "solved_frac": None,
        "num_signal": 0,
    }
    assert fired(*[fault] * 9) == [(5, "no_verdicts")]
    assert next(rule.fatal for rule in RULES if rule.name == "no_verdicts")


def test_reward_functions_that_always_fail_are_the_end() -> None:
    fault = {"num_failed_rewards": 95, "reward_mean": None, "solved_frac": None, "num_signal": 0}
    assert fired(*[fault] * 9) == [(5, "no_rewards")]
    assert next(rule.fatal for rule in RULES if rule.name == "no_rewards")


def test_a_reward_of_ones_own_may_teach_before_anything_is_solved_and_a_mean_of_0_is_no_fault() -> None:
    assert fired(*[{"reward_mean": -3.0, "solved_frac": 0.0}] * 40) == []
    assert fired(*[{"reward_mean": 0.0, "solved_frac": 0.5}] * 40) == []
    silent = {"reward_mean": -3.0, "solved_frac": 0.0, "num_signal": 0, "correct_advantage": None}
    assert fired(*[silent] * 40) == [(10, "reward_all_zero")]


def test_failed_gradings_count_over_the_window_though_most_steps_have_none() -> None:
    """From the first per cent on: 10 of 1,000 completions, all in one step of ten."""
    assert fired(*[{"num_failed_gradings": 10}, *[NOTHING] * 9]) == [(10, "grader_trouble")]
    assert fired(*[{"num_failed_gradings": 9}, *[NOTHING] * 9]) == []


@pytest.mark.parametrize(("value", "name"), [(0.02, "float32"), (0.05, "float32"), (0.05, "bfloat16")])
def test_a_mismatch_from_the_first_step_on_is_not_taken_for_ordinary(value: float, name: str) -> None:
    assert fired(*[{"mismatch_mean": value}] * 20, dtype=name) == [(5, "mismatch")]


def test_older_weights_that_the_recipe_allows_raise_nothing_and_older_ones_do() -> None:
    def raised(lag: int, allowed: int) -> set[str]:
        alarms = Alarms(AlarmSection(window=WINDOW), max_policy_lag=allowed)
        steps = steps_of(*[{"policy_lag": lag, "mismatch_mean": 0.02}] * 10)
        return {alarm.name for stats in steps for alarm in alarms.observe(stats)}

    assert raised(2, allowed=2) == set()
    assert raised(3, allowed=2) == {"policy_lag"}


def test_the_least_effective_sample_size_is_the_recipes() -> None:
    alarms = Alarms(AlarmSection(window=2, min_effective_sample_size=0.9))
    (alarm,) = alarms.observe(*steps_of({"effective_sample_size": 0.8}))
    assert alarm.name == "effective_sample_size" and "80%" in alarm.reason and "90%" in alarm.reason


def test_the_limit_of_the_mismatch_is_learned_from_the_first_steps() -> None:
    """Weights go stale after step 1: what a later step may show is a multiple of what the first one did."""
    float32 = [{"mismatch_mean": 1e-7}, *[{"mismatch_mean": 0.002}] * 10]
    assert fired(*float32) == [(6, "mismatch")]
    bfloat16 = [{"mismatch_mean": 0.0015}, *[{"mismatch_mean": 0.02}] * 10]
    assert fired(*bfloat16, dtype="bfloat16") == [(6, "mismatch")]


@pytest.mark.parametrize(("dtype", "first", "later"), [("float32", 3e-7, 9e-5), ("bfloat16", 0.004, 0.028)])
def test_ordinary_mismatch_of_a_number_type_is_none(dtype: str, first: float, later: float) -> None:
    assert fired(*[{"mismatch_mean": first}] * 10, *[{"mismatch_mean": later}] * 20, dtype=dtype) == []
    assert MISMATCH_LIMITS["float32"][1] < 0.02


def test_k1_may_be_negative() -> None:
    assert fired(*[{"kl_mean": -0.001}] * 20, kl="k1") == []


def test_the_reference_may_be_the_policy_at_the_start_of_a_stage() -> None:
    """Ten updates count from the stage's beginning, where the reference may have been reset."""
    early = [{"kl_mean": 0.0 if i == 0 else 0.001, "stage": "one"} for i in range(10)]
    assert fired(*early, {"kl_mean": 0.0, "stage": "two"}, {"kl_mean": 0.0001, "stage": "two"}) == []


def test_a_stage_with_no_problems_to_spare_asks_the_same_ones() -> None:
    assert fired(*[{"problems": "all there are", "problems_left": 0}] * 20) == []


def test_weights_may_rest_while_nothing_carries_signal() -> None:
    assert fired(*[{"weights": "w", "grad_norm": 0.0, "num_signal": 0, "reward_mean": 0.5}] * 9) == []


def test_repeats_that_low_entropy_explains_are_none() -> None:
    assert fired(*[{"num_compared": 80, "num_repeated": 60, "repeats_by_chance": 55.0}] * 20) == []


def test_few_right_answers_that_luck_does_not_explain_are_the_policys_own() -> None:
    """0.5% right where luck would make 0.02%: hard problems, no fault."""
    assert fired(*[{"reward_mean": 0.005, "num_rewarded": i % 2, "chance_correct": 0.02} for i in range(40)]) == []


def test_an_alarm_comes_back_after_the_condition_was_gone() -> None:
    bad = {"truncated_frac": 0.95}
    assert fired(*[bad] * 10, NOTHING, *[bad] * 10) == [(10, "truncation"), (21, "truncation")]


def test_the_collapse_of_length_truncation_and_reward_is_seen() -> None:
    def fault(step: int) -> Fault:
        grown = max(0, step - 20) / 30
        return {
            "reward_mean": 0.4 - 0.3 * grown,
            "truncated_frac": min(0.8, 0.1 + 0.5 * grown),
            "length_mean": 100 + 80 * grown,
        }

    names = [name for _, name in fired(*map(fault, range(60)))]
    assert names == ["collapse"]


def test_growing_length_with_growing_reward_is_no_collapse() -> None:
    stream = [
        {"reward_mean": 0.3 + 0.01 * s, "length_mean": 80.0 + 3 * s, "truncated_frac": 0.01 * s} for s in range(50)
    ]
    assert fired(*stream) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_run_raises_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = []
    for s in range(200):
        reward = float(np.clip(0.2 + 0.002 * s + rng.normal(0, 0.05), 0.01, 0.99))
        stream.append(
            {
                "reward_mean": reward,
                "num_rewarded": round(100 * reward),
                "truncated_frac": float(np.clip(0.5 * np.exp(-s / 20) + rng.normal(0, 0.02), 0, 1)),
                "length_mean": float(100 - 30 * np.exp(-s / 20) + rng.normal(0, 3)),
                "entropy_mean": float(0.3 * np.exp(-s / 200)),
                "mismatch_mean": float(rng.gamma(20, 1.2e-7)),
                "kl_mean": 1e-5 * s,
                "skipped_updates": int(rng.random() < 0.02),
            }
        )
    assert fired(*stream) == []


def test_a_new_stage_starts_trends_anew() -> None:
    """A longer budget raises length and cut share at once, and the reward may dip: that is no collapse."""
    after = {"reward_mean": 0.2, "length_mean": 200.0, "truncated_frac": 0.4}
    assert fired(*[NOTHING] * 40, *[{**after, "stage": "two"}] * 40) == []
    assert fired(*[NOTHING] * 40, *[after] * 40) != []


# A fault that begins in the middle, so that what was learned and counted before the restart decides.
RESUMED: list[Callable[[int], Fault]] = [
    lambda s: {"reward_mean": 0.0, "solved_frac": 0.0, "num_signal": 0} if s > 3 else NOTHING,
    lambda s: {"mismatch_mean": 1e-7 if s < 3 else 0.002},
    lambda s: {"weights": "the same"} if s > 4 else NOTHING,
    lambda s: {"problems": "the same"} if s > 4 else NOTHING,
    lambda s: {"kl_mean": 0.0} if s > 3 else NOTHING,
    lambda s: SKIPPED if s % 2 else NOTHING,
    lambda s: {"num_failed_gradings": s % 3},
    lambda s: {"num_rewarded": 1, "chance_correct": 1.1},
    lambda s: {"num_compared": 8, "num_repeated": 1, "repeats_by_chance": 0.0},
    lambda s: {"reward_mean": 0.9 - s / 40, "truncated_frac": s / 40, "length_mean": 10.0 * s},
]


@pytest.mark.parametrize("fault", RESUMED)
@pytest.mark.parametrize("stopped", [1, 4, 7, 20])
def test_restored_alarms_go_on_as_if_never_stopped(fault: Callable[[int], Fault], stopped: int) -> None:
    steps = steps_of(*[fault(s) for s in range(35)])

    def watch(alarms: Alarms, part: list[StepStats]) -> list[tuple[str, str]]:
        return [(stats.problems, a.name) for stats in part for a in alarms.observe(stats)]

    whole, first, second = (Alarms(AlarmSection(window=WINDOW)) for _ in range(3))
    expected = watch(whole, steps)
    before = watch(first, steps[:stopped])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + watch(second, steps[stopped:]) == expected != []
    assert second.state_dict() == whole.state_dict()


def test_state_of_an_earlier_version_is_taken_as_far_as_it_goes() -> None:
    alarms = Alarms(AlarmSection(window=WINDOW))
    alarms.load_state_dict({"held": {"truncation": 9}, "history": []})
    (stats,) = steps_of({"truncated_frac": 0.95})
    assert [a.name for a in alarms.observe(stats)] == ["truncation"]


def test_alarms_say_what_to_do_with_their_figures() -> None:
    for name, fault, _ in (*IN_A_ROW, *OVER_STEPS):
        alarms = Alarms(AlarmSection(window=WINDOW))
        raised = [a for stats in steps_of(*[fault] * 12) for a in alarms.observe(stats) if a.name == name]
        assert raised and len(raised[0].reason) > 30 and len(raised[0].remedy) > 15
        assert "{" not in raised[0].reason + raised[0].remedy.replace("\\boxed{}", "")
    nothing = {"reward_mean": 0.0, "solved_frac": 0.0, "num_signal": 0}
    (zero,) = Alarms(AlarmSection(window=1)).observe(steps_of(nothing)[0])
    assert zero.fatal and "nothing is learned" in zero.reason and "deepscaler report" in zero.remedy
    (gate,) = Alarms(AlarmSection(window=1)).observe(steps_of({"no_answer_frac": 0.95})[0])
    assert gate.reason.startswith("95% of the completions")
