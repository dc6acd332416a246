"""A model without a family trains in the ordinary loop: announced, sampled, learned, saved and resumed."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from deepscaler.config import load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.modeling.load import ModelError, load_model, resolve_model
from deepscaler.observability.run_directory import read_metrics
from tiny_run import write_model, write_recipe


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """GPT-2 of two layers, with the tokenizer of the small replica."""
    directory = write_model(tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    (directory / "model.safetensors").unlink()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256)
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


def test_a_run_says_so_samples_as_it_learns_and_goes_on(gpt2: Path, tmp_path: Path) -> None:
    recipe, out = load_recipe(write_recipe(tmp_path, num_steps=2, processes=1, model=gpt2)), StringIO()
    with open_run(recipe, gpt2, tmp_path / "run", Progress(out, terminal=False)) as run:
        assert train(run) == 2
    assert out.getvalue().count("note: model type gpt2 has no family here") == 1
    steps = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "step"]
    assert all(step["mismatch_max"] < 1e-3 and step["grad_norm"] > 0 for step in steps)
    longer = load_recipe(write_recipe(tmp_path, num_steps=3, processes=1, model=gpt2))
    with open_run(longer, gpt2, tmp_path / "run", Progress(StringIO(), terminal=False)) as run:
        assert (run.step, train(run)) == (2, 3)


def test_weights_of_another_model_are_refused(gpt2: Path) -> None:
    text = (gpt2 / "config.json").read_text()
    (gpt2 / "config.json").write_text(text.replace('"n_layer": 2', '"n_layer": 3'))
    with pytest.raises(ModelError, match=r"12 missing: transformer\.h\.2\.ln_1\.weight"):
        load_model(gpt2)
    (gpt2 / "config.json").write_text(text.replace('"gpt2"', '"t5"'))
    with pytest.raises(ModelError, match="model_type 't5' has an encoder"):
        load_model(resolve_model(gpt2))
    (gpt2 / "config.json").write_text(text.replace('"gpt2"', '"vit"'))
    with pytest.raises(ModelError, match="model_type 'vit' is no causal language model"):
        load_model(gpt2)
