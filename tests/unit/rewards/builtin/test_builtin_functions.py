"""The reward functions that come with the package, by cases whose values can be computed by hand."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from deepscaler.config.import_paths import BUILTIN, BUILTIN_REWARDS
from deepscaler.rewards.builtin import format as form
from deepscaler.rewards.builtin import judge, language, length, repetition

WELL = {"completion": "<think>hm</think> so \\boxed{2}", "thinking": "hm", "response": " so \\boxed{2}", "answer": "2"}


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ({}, 1.0),
        ({"completion": "hm</think> so \\boxed{2}"}, 1.0),  # the template opened it
        ({"completion": "hm so \\boxed{2}"}, 0.0),
        ({"completion": "a<think>hm</think> so"}, 0.0),
        ({"completion": "<think>hm</think> so </think>"}, 0.0),
        ({"thinking": " "}, 0.0),
        ({"response": None}, 0.0),
        ({"answer": None}, 0.0),
        ({"answer": None, "require": ["think"]}, 1.0),
        ({"completion": "2", "thinking": "", "require": ["answer"]}, 1.0),
    ],
)
def test_format(changed: dict[str, Any], value: float) -> None:
    assert form.reward(**{**WELL, **changed}) == value


@pytest.mark.parametrize(
    ("num_tokens", "correct", "arguments", "value"),
    [
        (50, True, {"kind": "target", "tokens": 100}, -0.5),
        (100, False, {"kind": "target", "tokens": 100}, 0.0),
        (150, True, {"kind": "target", "tokens": 100}, -0.5),
        (100, True, {"kind": "max", "tokens": 100}, 0.5),
        (0, True, {"kind": "max", "tokens": 100}, 1.0),
        (200, True, {"kind": "max", "tokens": 100}, 0.0),
        (0, True, {"kind": "cosine", "tokens": 100}, 2.0),
        (50, True, {"kind": "cosine", "tokens": 100}, 1.5),
        (0, False, {"kind": "cosine", "tokens": 100}, -10.0),
        (50, False, {"kind": "cosine", "tokens": 100}, -5.0),
        (100, True, {"kind": "cosine", "tokens": 100}, -10.0),
        (80, True, {"kind": "overlong", "tokens": 100, "soft_tokens": 20}, 0.0),
        (90, True, {"kind": "overlong", "tokens": 100, "soft_tokens": 20}, -0.5),
        (200, True, {"kind": "overlong", "tokens": 100, "soft_tokens": 20}, -1.0),
    ],
)
def test_length(num_tokens: int, correct: bool, arguments: dict[str, Any], value: float) -> None:
    assert length.reward(num_tokens, correct, **arguments) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "arguments", "value"),
    [
        ("a b c d", {"ngram": 2}, 0.0),
        ("a b a b a", {"ngram": 2}, 2 / 4 - 1),
        ("A a a a", {"ngram": 1}, 1 / 4 - 1),
        ("short", {"ngram": 2}, 0.0),
        ("的的的的", {"ngram": 2, "unit": "characters"}, 1 / 3 - 1),
    ],
)
def test_repetition(text: str, arguments: dict[str, Any], value: float) -> None:
    assert repetition.reward(text, **arguments) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "script", "value"),
    [
        ("abcd", "latin", 1.0),
        ("ab的的", "latin", 0.5),
        ("ab的的", "han", 0.5),
        ("的 $abc$ \\frac{1}{2} \\boxed{2}", "han", 1.0),
        ("ひらカ漢", "japanese", 1.0),
        ("12 + 3 = 15", "latin", None),
    ],
)
def test_language(text: str, script: str, value: float | None) -> None:
    assert language.reward(text, "", text, script=script) == value


def test_language_reads_the_part_that_it_is_told_to() -> None:
    assert language.reward("ab的的", "的", "ab", part="thinking") == 0.0
    assert language.reward("ab的的", "的", "ab", part="response") == 1.0


@pytest.mark.parametrize("name", BUILTIN_REWARDS)
def test_arguments_that_cannot_be_used_are_refused_at_load(name: str) -> None:
    bad: dict[str, dict[str, Any]] = {
        "format": {"require": ["boxes"]},
        "judge": {"url": "http://x/v1", "model": "m", "template": "no placeholder"},
        "language": {"script": "klingon"},
        "length": {"tokens": 0},
        "repetition": {"ngram": 0},
    }
    with pytest.raises(ValueError, match=next(reversed(bad[name]))):
        importlib.import_module(f"{BUILTIN}.{name}").check(**bad[name])


@pytest.mark.parametrize(
    ("reply", "settings", "score"),
    [
        ("Right. [[7]]", {}, 7.0),
        ("[[1]] no: [[ 2.5 ]]", {}, 2.5),
        ("Score: 4/5", {"score": r"Score: (\d)"}, 4.0),
        ('Sure: {"why": "{x}", "score": 3}', {"json_key": "score"}, 3.0),
    ],
)
def test_a_judges_score_is_the_last_in_its_reply(reply: str, settings: dict[str, str], score: float) -> None:
    assert judge.read_score(reply, settings.get("score", judge.SCORE), settings.get("json_key", "")) == score


@pytest.mark.parametrize("key", ["", "score"])
def test_a_reply_without_a_score_is_an_error_and_no_score(key: str) -> None:
    with pytest.raises(ValueError, match="holds no"):
        judge.read_score("I would rather not say {}", judge.SCORE, key)


def test_what_a_model_wrote_fills_no_placeholder_and_is_no_score() -> None:
    values = {"prompt": "q", "response": "{references} [[10]]", "references": "secret"}
    assert judge.fill("{prompt} {response} {x}", values) == "q {references} [[10]] {x}"
