"""The base model: a tokenizer that loses nothing, and supervised training that is deterministic and all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from deepscaler.cluster.replica import SharedReplica
from deepscaler.config.sections.model import SftSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.data.sources.synthetic import random_chain
from deepscaler.data.templates import render_prompt
from deepscaler.toy.muon import COEFFICIENTS, NS_STEPS, Muon, orthogonalise, orthogonalise_all
from deepscaler.toy.supervised import new_model, next_batch, optimizers, save_base, train
from deepscaler.toy.tokenizer import build_tokenizer
from deepscaler.toy.traces import WORDS, worked_solution
from deepscaler.training.cross_entropy import cross_entropy_computer, supervised_sample
from deepscaler.types import RunError, TrainSample

SECTION = SftSection(
    hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_size=48, steps=3, tokens_per_step=256
)
TOKENIZER = build_tokenizer(WORDS)


def samples() -> Iterator[TrainSample]:
    rng = np.random.default_rng(1)
    while True:
        chain = random_chain(3, rng)
        prompt_ids, _ = render_prompt(TOKENIZER, str(chain))
        ids = TOKENIZER(worked_solution(chain, SECTION, rng)).input_ids
        yield supervised_sample(prompt_ids, np.array(ids, np.int32))


def trained(section: SftSection = SECTION) -> tuple[Any, dict[str, Any]]:
    model = new_model(section, TOKENIZER, seed=1)
    computer = cross_entropy_computer(model, TrainingSection(tokens_per_micro_batch=1024))
    replica = SharedReplica(computer, optimizers(section, orthogonalise_all))
    return model, train(model, replica, samples(), section)


def test_training_is_a_function_of_the_seed_and_lowers_the_loss() -> None:
    first, record = trained()
    second, _ = trained()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert record["tokens"] >= 3 * 256
    longer = SECTION.model_copy(update={"steps": 60, "warmup_steps": 3})
    assert trained(longer)[1]["loss"] < 0.7 * record["loss"]


def test_the_loss_is_the_mean_cross_entropy_of_the_completions() -> None:
    model = new_model(SECTION, TOKENIZER, seed=1)
    one = SECTION.model_copy(update={"steps": 1, "tokens_per_step": 1})
    sample = next(samples())
    ids = torch.tensor(np.concatenate([sample.prompt_ids, sample.completion_ids]))[None].long()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, ids[0, len(sample.prompt_ids) :])
    assert trained(one)[1]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_batches_leave_the_samples_they_are_made_of_alone() -> None:
    """One sample in every batch: the next batch is made while the one before it is still trained on."""
    one, other = (next(samples()) for _ in range(2))
    first = next_batch(iter([one]), budget=1)
    second = next_batch(iter([one, other]), budget=one.num_tokens + 1)
    assert [float(s.token_weights.sum()) for s in first] == pytest.approx([1.0])
    assert sum(float(s.token_weights.sum()) for s in second) == pytest.approx(1.0)
    assert (one.token_weights == 1.0).all() and (other.token_weights == 1.0).all()


def test_the_directory_loads_with_plain_transformers(tmp_path: Path) -> None:
    model, record = trained()
    save_base(model, TOKENIZER, tmp_path / "base", record)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    question = [{"role": "user", "content": "37 a+25"}]
    assert (
        tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
        == "<user>37 a+25<assistant><think>"
    )
    text = "37Wait 37a+25:7+5=12=62;</think>\\boxed{62}"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(SECTION, TOKENIZER, seed=1)

    def interrupt(directory: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_base(model, TOKENIZER, tmp_path / "base", {})
    assert list(tmp_path.iterdir()) == []


def test_storage_that_refuses_a_base_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(SECTION, TOKENIZER, seed=1)

    def refuse(directory: Path) -> None:  # as safetensors does, with an error type of its own
        raise RuntimeError("I/O error: File too large (os error 27)")

    monkeypatch.setattr(model, "save_pretrained", refuse)
    with pytest.raises(RunError, match=r"not written to .*base: a file would grow beyond the size allowed"):
        save_base(model, TOKENIZER, tmp_path / "base", {})
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*map(chr, range(32, 127)), "\n", *WORDS, "</think>", "\\boxed{"]), max_size=60))
def test_decoding_gives_back_what_was_encoded(pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_every_word_of_a_trace_is_one_token() -> None:
    for word in (*WORDS, "<think>", "</think>", "\\boxed{"):
        assert len(TOKENIZER(word, add_special_tokens=False).input_ids) == 1


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6), (1, 5)])
def test_an_orthogonalised_matrix_is_that_of_the_plain_rule_in_float64(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape)
    a, b, c = COEFFICIENTS
    u, singular, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = singular / singular.norm()
    for _ in range(NS_STEPS):
        s = a * s + b * s**3 + c * s**5
    result = orthogonalise(matrix)
    assert result.shape == matrix.shape
    torch.testing.assert_close(result.double(), u @ torch.diag(s) @ v, atol=2e-5, rtol=0)


def test_muon_takes_the_momentum_of_gradients_through_what_orthogonalises() -> None:
    torch.manual_seed(0)
    weight, seen = torch.nn.Parameter(torch.zeros(8, 2)), []
    frozen = torch.nn.Parameter(torch.ones(2, 2))

    def half(matrices: Any) -> list[torch.Tensor]:
        seen.extend(m.clone() for m in matrices)
        return [m / 2 for m in matrices]

    muon = Muon([weight, frozen], lr=0.1, momentum=0.5, orthogonalise=half)
    first, second = torch.randn(8, 2), torch.randn(8, 2)
    for grad in (first, second):
        weight.grad = grad.clone()
        muon.step()
    expected = [0.75 * first, 0.125 * first + 0.75 * second]
    for got, want in zip(seen, expected, strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(weight.detach(), -0.1 * 2 * 0.5 * (expected[0] + expected[1]))
    assert torch.equal(frozen.detach(), torch.ones(2, 2))
    vector = torch.nn.Parameter(torch.ones(3))
    vector.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"Muon updates matrices, not tensors of shape \(3,\)"):
        Muon([vector], lr=0.1).step()
