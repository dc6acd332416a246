"""What ends a completion: the model's own tokens, the template's end of a turn, and the settings."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AddedToken

from deepscaler.config import load_recipe
from deepscaler.config.evaluation import EvalRecipe, evaluation_recipe, load_evaluation, settings_of
from deepscaler.config.schema import RecipeError
from deepscaler.data.stopping import all_stop_ids, turn_end_ids
from deepscaler.data.templates import decoder
from deepscaler.loop.evaluate import sampling_params
from deepscaler.toy.tokenizer import build_tokenizer
from tiny_run import write_recipe

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
THINKING = CHATML.replace(
    "{{ m.content }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
)
SPACED = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ ' ' + eos_token if m.role == 'assistant' }}{% endfor %}"
)
QUESTIONS_ONLY = (
    "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no answers') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def tokenizer(template: str | None = None) -> Any:
    made = build_tokenizer(["word"])
    names = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot_id|>")
    made.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    if template is not None:
        made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "token"),
    [(CHATML, "<|im_end|>"), (THINKING, "<|im_end|>"), (LLAMA, "<|eot_id|>"), (SPACED, "<eos>")],
)
def test_the_token_after_an_assistants_turn_stops(template, token):
    made = tokenizer(template)
    expected = int(made.convert_tokens_to_ids(token))
    assert turn_end_ids(made) == {expected}
    assert all_stop_ids({1}, made, (7,)) == {1, 7, expected}


@pytest.mark.parametrize("template", [None, QUESTIONS_ONLY, CHATML.replace("<|im_end|>", "")])
def test_templates_that_end_no_turn_with_a_token_add_none(template):
    assert turn_end_ids(tokenizer(template)) == frozenset()


def test_text_is_cut_at_the_first_stop_string_and_loses_its_stop_token():
    made = tokenizer()
    ids = made("ab;cd;ef").input_ids
    assert decoder(made, frozenset({ids[-1]}), ())(ids) == "ab;cd;e"
    assert decoder(made, frozenset(), ("d;", "b;"))(ids) == "a"


def test_the_settings_reach_every_sampling_of_a_recipe(tmp_path):
    path = write_recipe(tmp_path, processes=1)
    stops = ['rollout.stop=["\\n\\nQ:"]', "rollout.stop_token_ids=[7, 9]"]
    recipe = load_recipe(path, stops)
    for inside in (True, False):
        asked = evaluation_recipe(recipe, ("a",), inside_training=inside)
        params = sampling_params(asked)
        assert params.stop == ("\n\nQ:",) and params.stop_token_ids == (7, 9)
        assert settings_of(asked)["stop"] == ["\n\nQ:"]
    assert "stop" not in settings_of(EvalRecipe())  # samples made before there were any stay usable
    given = load_evaluation(None, ["sampling.stop=['x']", "sampling.stop_token_ids=[3]"])
    assert (sampling_params(given).stop, sampling_params(given).stop_token_ids) == (("x",), (3,))
    with pytest.raises(RecipeError, match=r"sampling\.stop"):
        load_evaluation(None, ["sampling.stop=['']"])
    with pytest.raises(RecipeError, match=r"rollout\.stop_token_ids"):
        load_recipe(path, ["rollout.stop_token_ids=[-1]"])


def test_remote_code_is_no_setting(tmp_path):
    with pytest.raises(RecipeError, match=r"model\.trust_remote_code"):
        load_recipe(write_recipe(tmp_path), ["model.trust_remote_code='someone/model'"])
