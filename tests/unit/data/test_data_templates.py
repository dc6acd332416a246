"""Prompts of the model families the recipes name, and templates that must not get through.

The templates are written for these tests in the form of the published ones, over small real tokenizers.
"""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from chat_templates import BOS, CHATML_SPECIALS, QWEN3, QWEN25, r1, tokenizer
from deepscaler.data import templates
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.templates import (
    encode_problems,
    render_prompt,
    render_text,
    template_fingerprint,
    template_hash,
    template_text,
)
from deepscaler.types import Problem


def test_r1_distill_has_one_bos_its_own_and_ends_inside_the_thoughts() -> None:
    made = r1()
    ids, prefilled = render_prompt(made, "What is 3 + 4?")
    assert prefilled
    assert made.decode(ids) == f"{BOS}<｜User｜>What is 3 + 4?<｜Assistant｜><think>\n"
    assert ids[0] == made.bos_token_id != made.eos_token_id  # the model's config calls the eos its bos
    assert list(ids).count(made.bos_token_id) == 1 and made.eos_token_id not in ids
    # What a tokenizer that adds its own does with the same text, and why it is told not to:
    assert list(made(render_text(made, "What is 3 + 4?"))["input_ids"])[:2] == [made.bos_token_id] * 2


@pytest.mark.parametrize(("prefill", "prefilled"), [("'<think>\\n'", True), ("'<think>'", True), ("''", False)])
def test_the_prefilled_thought_is_seen(prefill: str, prefilled: bool) -> None:
    assert render_prompt(r1(prefill), "x")[1] == prefilled
    assert template_fingerprint(r1(prefill)).thinking_prefilled == prefilled


def test_a_closed_empty_thought_is_not_an_open_one() -> None:
    assert not render_prompt(r1("'<think>\\n\\n</think>\\n\\n'"), "x")[1]


@pytest.mark.parametrize(("template", "system"), [(QWEN25, "Please reason step by step."), (QWEN3, "")])
def test_qwen_has_no_bos_and_ends_at_the_assistants_turn(template: str, system: str) -> None:
    made = tokenizer(CHATML_SPECIALS, template, eos="<|im_end|>")
    ids, prefilled = render_prompt(made, "What is π?")
    assert made.bos_token_id is None and not prefilled
    assert made.decode(ids) == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhat is π?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert list(ids).count(made.convert_tokens_to_ids("<|im_start|>")) == 3  # one token each, not spelled out


def test_a_question_that_ends_in_think_does_not_count_as_prefilled_where_a_turn_follows() -> None:
    made = tokenizer(CHATML_SPECIALS, QWEN25, eos="<|im_end|>")
    assert not render_prompt(made, "Explain <think>")[1]


def test_a_doubled_bos_is_refused() -> None:
    made = r1()
    made.chat_template = "{{ bos_token }}" + template_text(made)
    with pytest.raises(ValueError, match="twice at the start"):
        render_prompt(made, "x")


def test_the_hash_is_that_of_the_template_in_use() -> None:
    made = r1()
    assert template_hash(made) == hashlib.sha256(template_text(made).encode()).hexdigest()
    assert template_hash(made) != template_hash(r1("''"))
    made.chat_template = {"default": QWEN25, "tool_use": "{{ 9 }}"}
    assert template_hash(made) == hashlib.sha256(QWEN25.encode()).hexdigest()
    assert render_text(made, "x").startswith("<|im_start|>system")


def test_a_template_that_depends_on_the_day_is_recorded_as_such() -> None:
    made = r1()
    assert not template_fingerprint(made).depends_on_date
    made.chat_template = "{{ strftime_now('%d %b %Y') }}" + template_text(made)
    assert template_fingerprint(made).depends_on_date


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only for tools') }}", "only for tools"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import '/etc/passwd' as secrets %}", "no loader"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError|Undefined"),
        ("{{ messages.append('x') }}{{ messages[0].content }}", "SecurityError"),
        ("{{ missing.field }}", "UndefinedError"),
        ("{% if %}", "no valid jinja2"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ range(1, 99999999)|list }}", "line 1"),
        ("{{ 9**9**9 }}", "power"),
        ("{{ 'a' * 1000000000 }}", "above 100000"),
        ("{{ '%999999999d' % 3 }}", "above 100000"),
        ("{{ 'a' * 99999 * 9 }}", "adds more than"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ bos_token }}no question", "leaves the question out"),
        ("{{ messages[0].content | upper }}", "leaves the question out or changes it"),
        ("", "no chat template"),
        (None, "no chat template"),
        ({"tool_use": "x"}, "no chat template"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_one_clear_error(template: object, message: str) -> None:
    made = r1()
    made.chat_template = template
    with pytest.raises(ValueError, match=message):
        render_prompt(made, "what is it?")


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template", [ENDLESS, "{% if messages[0].content|length > 3 %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"]
)
def test_a_template_that_never_ends_is_stopped_in_any_thread(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(templates, "RENDER_LIMIT_S", 0.1)
    made, raised = r1(), []
    made.chat_template = template

    def render() -> None:
        with pytest.raises(ValueError, match="TimeoutError: not done after") as error:
            render_prompt(made, "long enough")
        raised.append(error)

    start = time.monotonic()
    thread = threading.Thread(target=render)
    thread.start()
    thread.join(timeout=20)
    render()
    assert len(raised) == 2 and time.monotonic() - start < 20


def test_ordinary_text_in_a_template_is_no_bomb() -> None:
    made = r1()
    made.chat_template = (
        "{{ 'Of 1000000 people 5% say {x} or 100%.' }}{% generation %}{{ messages[0].content }}{% endgeneration %}"
    )
    assert render_text(made, "why?").endswith("100%.why?")


def test_the_text_is_what_transformers_renders_bit_by_bit() -> None:
    questions = ["What is π?", "a <b> & 'c' \"d\"", "{{ 1 }} {% raw %}", "two\nlines  ", "< think >", "😀 é"]
    for made in (r1(), tokenizer(CHATML_SPECIALS, QWEN25, eos="<|im_end|>")):
        kept, _ = encode_problems(
            [Problem(str(i), q, ("1",)) for i, q in enumerate(questions)], made, PromptFormat(), 999
        )
        for question, encoded in zip(questions, kept, strict=True):
            messages = [{"role": "user", "content": question}]
            text = made.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = made.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert render_text(made, question) == text
            assert encoded.prompt_ids.tolist() == render_prompt(made, question)[0].tolist() == ids


def test_one_prompt_among_many_on_which_the_template_hangs_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "RENDER_LIMIT_S", 0.2)
    made = r1()
    problems = [Problem(str(i), f"good {i}", ("1",)) for i in range(300)]
    for fault, message in (
        (ENDLESS, "fails .TimeoutError: not done after 0.2 s"),
        ("{{ 1 / 0 }}", "fails .ZeroDivisionError"),
        ("{{ 'a' * 99999 * 9 }}", "adds more than"),
    ):
        made.chat_template = (
            "{% if 'bad' in messages[0].content %}" + fault + "{% endif %}<｜User｜>{{ messages[0].content }}"
        )
        with pytest.raises(ValueError, match=message):
            encode_problems(
                [*problems[:200], Problem("bad", "bad", ("1",)), *problems[200:]], made, PromptFormat(), 999
            )
        kept, dropped = encode_problems(problems, made, PromptFormat(), 999)
        assert len(kept) == 300 and not dropped
