"""GGUF files: converted once to the weights that dequantising gives, and refused in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from deepscaler.cluster.model_directory import open_model
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.modeling.gguf.header import read_header
from deepscaler.modeling.load import ModelError, resolve_model
from deepscaler.observability.files import fingerprint
from deepscaler.types import Request, SamplingParams
from gguf_files import tiny_llama, write_gguf


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The file, and the model with its dequantised weights."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    return path, write_gguf(path, tiny_llama())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def opened(quantised: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        files = open_model(quantised[0], "float32")
        yield files


def test_weights_are_the_dequantised_ones_and_the_record_names_the_file(quantised, opened) -> None:
    path, model = quantised
    found: Any = AutoModelForCausalLM.from_pretrained(opened.path)
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert not hasattr(found.config, "quantization_config")
    assert opened.gguf.sha256 == fingerprint(path).sha256
    assert (opened.gguf.file, opened.gguf.quantisation) == (str(path), "Q8_0")
    assert opened.gguf.tensor_types == {"Q8_0": 15, "F32": 5}


def test_the_tokenizer_is_the_files(opened) -> None:
    ids = opened.tokenizer("hello<|im_end|>", add_special_tokens=False).input_ids
    assert opened.tokenizer.convert_ids_to_tokens(ids) == ["he", "ll", "o", "<|im_end|>"]
    assert opened.tokenizer.decode(opened.tokenizer("1 + ü\n").input_ids) == "1 + ü\n"
    assert opened.tokenizer.chat_template.startswith("{% for m in messages %}")
    assert opened.stop_ids() == {2}


def test_the_engine_continues_a_converted_model_as_transformers_does(quantised, opened) -> None:
    prompt = np.array([1, 70, 90, 2, 1], np.int32)
    engine = TorchEngine(opened.load(64), stop_ids=frozenset())
    (rollout,) = engine.generate([Request("p", prompt, 1)], SamplingParams(20, temperature=0.0))
    with torch.no_grad():
        ids = torch.tensor(prompt, dtype=torch.int64).unsqueeze(0)
        expected = quantised[1].generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=[],
            pad_token_id=0,
        )
    assert rollout.completion_ids.tolist() == expected[0, len(prompt) :].tolist()


def test_a_file_is_converted_once_and_another_content_anew(quantised, capsys) -> None:
    path, _ = quantised
    first = resolve_model(path)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert "converting" in capsys.readouterr().err
    assert resolve_model(path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    assert capsys.readouterr().err == ""
    write_gguf(Path("other.gguf"), tiny_llama(seed=1))
    assert resolve_model("other.gguf") != first


def test_a_truncated_file_is_refused_and_leaves_nothing(quantised) -> None:
    whole = quantised[0].read_bytes()
    for share in (0.02, 0.5, 0.99):
        Path("part.gguf").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelError, match=r"part\.gguf is damaged or truncated \(.* bytes.*download it again"):
            resolve_model("part.gguf")
    Path("text.gguf").write_text("<html>404</html>")
    with pytest.raises(ModelError, match="does not begin with the letters GGUF"):
        resolve_model("text.gguf")
    assert not Path("runs").exists()


def test_an_architecture_that_transformers_cannot_convert_is_named() -> None:
    write_gguf(Path("odd.gguf"), tiny_llama(), architecture="mamba7")
    with pytest.raises(ModelError, match=r"odd\.gguf \(architecture mamba7, Q8_0\): transformers .* cannot convert"):
        resolve_model("odd.gguf")


def test_a_file_that_lacks_a_weight_is_refused_instead_of_filled_with_noise() -> None:
    write_gguf(Path("short.gguf"), tiny_llama(), leave_out="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"1 weight missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve_model("short.gguf")


def test_a_missing_package_is_named_with_its_extra(quantised, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"package gguf that reads it is not installed; .*deepscaler\[gguf\]"):
        read_header(quantised[0])


def test_a_damaged_record_is_refused(quantised) -> None:
    directory = resolve_model(quantised[0])
    record = json.loads((directory / "gguf.json").read_text())
    (directory / "gguf.json").write_text(json.dumps({"file": record["file"]}))
    with pytest.raises(ValueError, match=r"gguf\.json is damaged"):
        _ = open_model(directory, "float32").gguf
