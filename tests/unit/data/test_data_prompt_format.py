"""How prompts are made of problems: system prompt, question, switches of the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_templates import CHATML_SPECIALS, QWEN3, QWEN25, tokenizer
from deepscaler.cluster.model_directory import open_model
from deepscaler.config.evaluation import load_evaluation, settings_of
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.sources.load import load_problems
from deepscaler.data.templates import check_template_options, encode_problem, encode_problems, template_fingerprint
from deepscaler.types import Message, Problem
from tiny_run import write_model

PROBLEM = Problem("a", "1+1?", ("2",))


def chatml(template: str = QWEN3) -> Any:
    return tokenizer(CHATML_SPECIALS, template, eos="<|im_end|>")


def test_a_system_prompt_stands_where_the_row_has_none() -> None:
    made = PromptFormat("Think.", system_prompt="Be brief.")
    assert made.messages(PROBLEM)[0] == {"role": "system", "content": "Be brief."}
    assert made.messages(PROBLEM)[1] == {"role": "user", "content": "1+1? Think."}
    own = Problem("b", "1+1?", ("2",), earlier=(Message("system", "Be long."), Message("user", "Hi")))
    assert [m["content"] for m in made.messages(own)] == ["Be long.", "Hi", "1+1? Think."]


def test_the_template_of_a_question_takes_the_place_of_the_instruction() -> None:
    asked = PromptFormat("Think.", prompt_template="Q: {problem}\n{instruction}").question(PROBLEM)
    assert asked == "Q: 1+1?\nThink."
    odd = Problem("c", "what is {instruction} and {problem}?", ("2",))
    assert PromptFormat("Think.", prompt_template="{problem}!").question(odd) == odd.prompt + "!"


def test_switches_and_system_prompt_reach_every_prompt() -> None:
    made = chatml()
    switched = PromptFormat(system_prompt="S", template={"enable_thinking": False})
    text = made.decode(encode_problem(made, PROBLEM, switched))
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    (kept,), _ = encode_problems([PROBLEM], made, switched, 999)
    assert made.decode(kept.prompt_ids) == text
    opens = QWEN25.replace(
        "assistant\\n' }}{%- endif %}", "assistant\\n' }}{% if think %}<think>{% endif %}{%- endif %}"
    )
    assert template_fingerprint(chatml(opens), {"think": True}).thinking_prefilled
    assert not template_fingerprint(chatml(opens)).thinking_prefilled


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"enable_thinkin": True}, r"data.template.enable_thinkin: .*did you mean enable_thinking\?"),
        ({"messages": "x"}, "reads no variable 'messages'"),
        ({"enable_thinking": 10**9}, "above 100000"),
    ],
)
def test_a_switch_that_the_template_does_not_have_is_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_template_options(chatml(), options, "data.template")
    check_template_options(chatml(), {"enable_thinking": False}, "data.template")


def test_a_model_without_the_switch_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    with pytest.raises(ValueError, match=r"suite.template.enable_thinking: .*It reads: none"):
        open_model(model, "auto", prompt_format=PromptFormat(template={"enable_thinking": False}), section="suite")


def test_an_evaluation_records_how_its_prompts_are_made() -> None:
    plain = settings_of(load_evaluation(None))
    asked = settings_of(load_evaluation(None, ["suite.system_prompt=S", "suite.prompt_template='Q {problem}'"]))
    assert asked == {**plain, "system_prompt": "S", "prompt_template": "Q {problem}"}


@pytest.mark.parametrize(
    "row",
    [
        '{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "1+1?"}], "answer": "2"}',
        '{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "1+1?"}, '
        '{"role": "assistant", "content": "It is 2."}], "answer": "2"}',
        '{"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "1+1?"}, '
        '{"from": "gpt", "value": "2"}], "answer": "2"}',
    ],
)
def test_conversations_are_problems_without_the_answer_at_their_end(tmp_path: Path, row: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(row + "\n")
    (problem,) = load_problems(path)
    assert (problem.prompt, problem.earlier, problem.references) == ("1+1?", (Message("system", "S"),), ("2",))
