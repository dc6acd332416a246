"""A GGUF file as model.path: a run trains from its dequantised weights and records where they come from."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from deepscaler.cli.run import convert
from deepscaler.config import load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.observability.files import fingerprint
from gguf_files import tiny_llama, write_gguf
from tiny_run import write_recipe

OVERRIDES = ["data.max_prompt_tokens=256", "training.tokens_per_micro_batch=512", "evaluation.max_completion_tokens=8"]


def test_a_run_from_a_gguf_file_records_its_sha256_and_quantisation(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.Q4_1.gguf"
    write_gguf(path, tiny_llama(max_tokens=512), kind="Q4_1")
    recipe = load_recipe(write_recipe(tmp_path, num_steps=1, processes=1, model=path), OVERRIDES)
    with open_run(recipe, path, tmp_path / "run", Progress(StringIO(), terminal=False)) as run:
        assert train(run) == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"] == str(path)
    assert record["gguf"]["sha256"] == fingerprint(path).sha256
    assert (record["gguf"]["quantisation"], record["gguf"]["architecture"]) == ("Q4_1", "llama")
    assert (tmp_path / "run" / "checkpoints" / "step-000001" / "model.safetensors").is_file()


def test_convert_writes_a_directory_and_leaves_nothing_of_a_text_file(tmp_path: Path, capsys) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    convert(tmp_path / "tiny.gguf", tmp_path / "model", "bfloat16")
    assert "llama, Q8_0 dequantised to bfloat16" in capsys.readouterr().out
    assert json.loads((tmp_path / "model" / "gguf.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match=r"model exists; give a directory that does not"):
        convert(tmp_path / "tiny.gguf", tmp_path / "model")
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(ValueError, match="does not begin with the letters GGUF"):
        convert(tmp_path / "text.gguf", tmp_path / "other")
    assert not (tmp_path / "other").exists()
