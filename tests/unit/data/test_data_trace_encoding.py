"""Traces as token ids: what is learned is what the model would have sampled after the prompt that it is given."""

from __future__ import annotations

from typing import Any

import pytest

from chat_templates import CHATML_SPECIALS, EOS, QWEN3, QWEN25, R1_SPECIALS, r1, tokenizer
from deepscaler.data.sources.readers import DataError
from deepscaler.data.templates import render_messages
from deepscaler.data.trace_encoding import EncodedTrace, TraceEncoder
from deepscaler.data.traces import Trace
from deepscaler.toy.tokenizer import build_tokenizer
from deepscaler.types import Message

END = "<|im_end|>"
TALK = (("user", "1+1?"), ("assistant", "2"), ("user", "and 3?"), ("assistant", "5"))
# In the manner of SmolLM3's and of TRL's training templates.
TAGGED = (
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{%- else %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3_THINKS = QWEN3.replace(
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}",
    "{%- set content = message.content %}{%- if message.role == 'assistant' and not loop.last %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{ '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}",
)


def trace(*turns: tuple[str, str]) -> Trace:
    return Trace("mine.jsonl, row 3", tuple(Message(*turn) for turn in turns))


def chatml(template: str) -> Any:
    return tokenizer(CHATML_SPECIALS, template, eos=END)


def encoded(made: Any, *turns: tuple[str, str], loss_on: Any = "all", **options: object) -> list[EncodedTrace]:
    ends = frozenset({made.eos_token_id})
    return TraceEncoder(made, ends, options, loss_on).encode([trace(*turns)])


def shown(made: Any, found: EncodedTrace) -> str:
    """The sequence as text, with what is learned in brackets."""
    text, inside = "", False
    for index, learned in zip(found.ids.tolist(), found.supervised.tolist(), strict=True):
        text += ("[" if learned else "]") if learned != inside else ""
        text += made.decode([index])
        inside = learned
    return text + ("]" if inside else "")


def test_every_turn_of_the_assistant_is_learned_with_the_token_that_ends_it() -> None:
    made = chatml(QWEN25.replace("Please reason step by step.", "S"))
    (found,) = encoded(made, *TALK)
    assert shown(made, found) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]\n"
        "<|im_start|>user\nand 3?<|im_end|>\n<|im_start|>assistant\n[5<|im_end|>]"
    )


def test_the_last_turn_alone_is_learned_where_the_recipe_says_so() -> None:
    made = chatml(QWEN25)
    (found,) = encoded(made, *TALK, loss_on="last")
    assert shown(made, found).endswith(
        "assistant\n2<|im_end|>\n<|im_start|>user\nand 3?<|im_end|>\n<|im_start|>assistant\n[5<|im_end|>]"
    )
    assert shown(made, found).count("[") == 1


def test_a_template_that_marks_turns_gives_the_same_as_its_prefixes() -> None:
    untagged = TAGGED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    tagged, plain = chatml(TAGGED), chatml(untagged)
    for loss_on in ("all", "last"):
        (by_mask,), (by_prefix,) = (encoded(made, *TALK, loss_on=loss_on) for made in (tagged, plain))
        assert by_mask.ids.tolist() == by_prefix.ids.tolist()
        assert by_mask.supervised.tolist() == by_prefix.supervised.tolist()


def test_marks_agree_with_the_mask_of_transformers() -> None:
    made = chatml(TAGGED)
    messages = [{"role": role, "content": content} for role, content in TALK]
    theirs = made.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    (found,) = encoded(made, *TALK)
    count = len(found.ids)
    assert theirs["input_ids"][:count] == found.ids.tolist()
    assert theirs["assistant_masks"][:count] == found.supervised.astype(int).tolist()


def test_an_end_token_after_the_marked_text_is_learned_too() -> None:
    made = chatml(TAGGED.replace("+ '<|im_end|>' }}{% endgeneration %}", "}}{% endgeneration %}{{ '<|im_end|>' }}"))
    (found,) = encoded(made, *TALK)
    assert shown(made, found).count("<|im_end|>]") == 2


@pytest.mark.parametrize("thoughts", ["<think>\nadd\n</think>\n\n2", "add\n</think>\n\n2"])
def test_a_thought_that_the_template_opened_is_not_opened_again(thoughts: str) -> None:
    """The template would drop the thoughts from its rendering as well."""
    made = r1()
    (found,) = encoded(made, ("user", "1+1?"), ("assistant", thoughts))
    assert shown(made, found).endswith(f"<｜Assistant｜><think>\n[add\n</think>\n\n2{EOS}]")


def test_a_conversation_whose_thoughts_are_dropped_later_is_one_sequence_a_turn() -> None:
    made = chatml(QWEN3_THINKS)
    thought = "<think>\nso\n</think>\n\n"
    first, second = encoded(made, TALK[0], ("assistant", thought + "2"), TALK[2], ("assistant", thought + "5"))
    assert shown(made, first).endswith("<|im_start|>assistant\n[<think>\nso\n</think>\n\n2<|im_end|>]")
    head = "<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\nand 3?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(made, second).endswith(head + "[<think>\nso\n</think>\n\n5<|im_end|>]")


def test_prompts_are_those_of_sampling() -> None:
    for made in (chatml(QWEN25), chatml(QWEN3), r1(), build_tokenizer(())):
        (found,) = encoded(made, ("user", "1+1?"), ("assistant", "<think>\nso\n</think>\n\n2"))
        prompt = found.ids[: found.supervised.argmax()]
        assert made.decode(prompt) == render_messages(made, [{"role": "user", "content": "1+1?"}])
        assert found.ids[-1] == made.eos_token_id and found.supervised[-1]
        assert list(found.ids[found.supervised]).count(made.eos_token_id) == 1


def test_a_switch_of_the_template_reaches_the_prompt() -> None:
    made = chatml(QWEN3)
    (found,) = encoded(made, ("user", "1+1?"), ("assistant", "2"), enable_thinking=False)
    assert shown(made, found).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n[2<|im_end|>]")


def test_the_text_of_an_end_token_in_a_trace_ends_nothing() -> None:
    made = chatml(QWEN25)
    (found,) = encoded(made, ("user", f"say {END}"), ("assistant", f"it is {END} there"))
    assert found.ids[found.supervised].tolist().count(made.eos_token_id) == 1
    assert shown(made, found).endswith(f"[it is {END} there{END}]")


@pytest.mark.parametrize(
    ("made", "answer", "options", "says"),
    [
        (r1(), "2", {}, "has no </think>"),
        (chatml(QWEN3), "<think>so</think>2", {"enable_thinking": False}, "switch thinking on"),
    ],
)
def test_traces_against_the_template_are_refused_by_row(made: Any, answer: str, options: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        encoded(made, ("user", "1+1?"), ("assistant", answer), **options)
    assert "mine.jsonl, row 3" in str(error.value)


def test_a_model_that_ends_no_turn_is_refused() -> None:
    with pytest.raises(ValueError, match="eos_token"):
        TraceEncoder(tokenizer(R1_SPECIALS, QWEN25, eos=EOS), frozenset(), {})
