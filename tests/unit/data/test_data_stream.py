"""The order of problems: complete epochs, a function of the seed, exact after a restart; prompts by template."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.sources.synthetic import generate_problems
from deepscaler.data.stream import ProblemStream
from deepscaler.data.templates import encode_problems, render_prompt
from deepscaler.toy.tokenizer import build_tokenizer
from deepscaler.toy.traces import WORDS
from deepscaler.types import Problem

PROBLEMS = generate_problems(10, [3], 1)


def ids(problems: list[Problem]) -> list[str]:
    return [p.id for p in problems]


def test_every_epoch_holds_every_problem_once_and_in_its_own_order() -> None:
    stream = ProblemStream(PROBLEMS, seed=1)
    first, second = ids(stream.take(10)), ids(stream.take(10))
    assert set(first) == set(second) == set(ids(PROBLEMS))
    assert first != second


def test_the_split_into_steps_changes_nothing() -> None:
    whole, parts = ProblemStream(PROBLEMS, seed=1), ProblemStream(PROBLEMS, seed=1)
    assert ids(whole.take(27)) == ids([p for n in (4, 4, 7, 12) for p in parts.take(n)])


def test_a_restored_stream_goes_on_where_it_was() -> None:
    stream = ProblemStream(PROBLEMS, seed=1)
    stream.take(7)
    stream.reshuffle("long")
    stream.take(13)
    restored = ProblemStream(PROBLEMS, seed=1)
    restored.load_state_dict(stream.state_dict())
    assert ids(restored.take(9)) == ids(stream.take(9))


def test_a_reshuffle_is_a_new_order() -> None:
    stream = ProblemStream(PROBLEMS, seed=1)
    before = ids(stream.take(10))
    stream.reshuffle("long")
    after = ids(stream.take(10))
    assert before != after and Counter(before) == Counter(after)


def test_another_number_of_problems_is_refused() -> None:
    state = ProblemStream(PROBLEMS, seed=1).state_dict()
    with pytest.raises(ValueError, match="10 training problems, now there are 9"):
        ProblemStream(PROBLEMS[:9], seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="no problems"):
        ProblemStream([], seed=1)


def test_the_prompt_is_the_template_around_problem_and_instruction() -> None:
    tokenizer = build_tokenizer(WORDS)
    prompt_ids, prefilled = render_prompt(tokenizer, PROBLEMS[0].prompt)
    assert prefilled
    assert prompt_ids.dtype == np.int32
    assert tokenizer.decode(prompt_ids) == f"<user>{PROBLEMS[0].prompt}<assistant><think>"
    assert PromptFormat("Think.").question(PROBLEMS[0]) == f"{PROBLEMS[0].prompt} Think."


def test_too_long_prompts_are_dropped_and_counted() -> None:
    tokenizer = build_tokenizer(WORDS)
    mixed = [*PROBLEMS, *generate_problems(5, [20], 1)]
    kept, dropped = encode_problems(mixed, tokenizer, PromptFormat(), 40)
    assert [e.problem for e in kept] == PROBLEMS
    assert dropped == mixed[10:]
    with pytest.raises(ValueError, match=r"every prompt \(15\) exceeds data.max_prompt_tokens = 3; raise it"):
        encode_problems(mixed, tokenizer, PromptFormat(), 3)


def test_a_tokenizer_without_template_is_refused() -> None:
    tokenizer = build_tokenizer(WORDS)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        render_prompt(tokenizer, "x")
