"""Bad input gives one clear message with the place and the remedy, a non-zero exit, and no damaged run directory."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deepscaler.cli.main import main
from deepscaler.training.checkpoint import find_damage, newest_checkpoint
from deepscaler.training.learner import PolicyLearner
from tiny_run import write_model, write_recipe

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """The command line in this process: (exit code, standard error)."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["deepscaler", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), capsys.readouterr().err

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Path:
    return write_recipe(tmp_path, num_steps=2, processes=1, model=model)


def assert_refused(result: tuple[int, str], run_dir: Path, *parts: str) -> None:
    code, message = result
    assert code != 0
    assert message.startswith("deepscaler: error: ")
    assert "Traceback" not in message
    for part in parts:
        assert part in message, message
    assert not run_dir.exists(), "a refused run leaves no directory behind"


def test_an_unknown_key_names_the_nearest(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("learning_rate", "learning_rat"))
    result = cli("train", recipe, "--run-dir", tmp_path / "run")
    assert result[0] == 2
    assert_refused(result, tmp_path / "run", str(recipe), "learning_rat", "learning_rate")


def test_a_missing_model_directory(cli: Cli, recipe: Path, model: Path, tmp_path: Path) -> None:
    shutil.rmtree(model)
    result = cli("train", recipe, "--run-dir", tmp_path / "run")
    assert_refused(result, tmp_path / "run", str(model), "does not exist", "deepscaler sft")


def test_only_pickled_weights(cli: Cli, recipe: Path, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")
    result = cli("train", recipe, "--run-dir", tmp_path / "run")
    assert_refused(result, tmp_path / "run", str(model), "pytorch_model.bin", "only safetensors", "save_pretrained")


def test_a_tokenizer_without_chat_template(cli: Cli, recipe: Path, model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").unlink()
    result = cli("train", recipe, "--run-dir", tmp_path / "run")
    assert_refused(result, tmp_path / "run", str(model), "no chat template", "chat_template.jinja")


def with_data(recipe: Path, content: bytes) -> list[object]:
    """Arguments that train on a file of problems."""
    data = recipe.parent / "problems.jsonl"
    data.write_bytes(content)
    return ["--set", f"data.source={data}"]


GOOD = json.dumps({"problem": "37 a+25", "answer": "62"}).encode()


def test_a_row_without_answer(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    extra = with_data(recipe, GOOD + b'\n{"problem": "1 a+1"}\n')
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "problems.jsonl, row 1", "no field 'answer'")


def test_broken_utf8(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    extra = with_data(recipe, GOOD + b'\n{"problem": "\xfe"}\n')
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "problems.jsonl, line 2", "not UTF-8", "convert")


PROSE = "Half of 48 is 24 clips. So she sold 72 clips in all."


@pytest.mark.parametrize("where", ["data.source", "evaluation.validation_files"])
def test_a_worked_solution_that_marks_no_answer(cli: Cli, recipe: Path, tmp_path: Path, where: str) -> None:
    rows = [GOOD, json.dumps({"problem": "3 a+4", "answer": PROSE}).encode()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(rows))
    training = with_data(recipe, GOOD)
    value = tmp_path / "rows.jsonl"
    extra = [*training, "--set", f"{where}={value}" if where == "data.source" else f'{where}=["{value}"]']
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "rows.jsonl, row 1, field 'answer'", "several sentences", "####")


def test_half_a_surrogate_pair(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    extra = with_data(recipe, GOOD + b'\n{"problem": "3 \\ud800 a+4", "answer": "7"}\n')
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "problems.jsonl, row 1, field 'problem'", "surrogate", "remove the row")


def test_a_latex_command_eaten_by_json(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    extra = with_data(recipe, GOOD + b'\n{"problem": "3 a+4", "answer": "\\fx2"}\n')
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "row 1, field 'answer'", "control character", "double the backslashes")


def test_a_conversation_that_asks_nothing(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "3 a+4"}, {"role": "assistant", "content": "7"}]
    extra = with_data(recipe, GOOD + b"\n" + json.dumps({"prompt": prompt, "answer": "7"}).encode())
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "row 1, field 'prompt'", "last message must be the user's")


def test_files_as_people_have_them_are_trained_on(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    """GSM8K's columns and solutions, verl's rows with a system message, a control token's text, an id of 0."""
    gsm8k = [{"id": i, "question": f"3{i} a+4<eos>", "answer": f"3{i}+4\n#### {34 + i}"} for i in range(6)]
    verl = [
        {"prompt": [{"role": "system", "content": "brief"}, {"role": "user", "content": f"2{i} a+4"}],
         "reward_model": {"style": "rule", "ground_truth": f"So it is \\boxed{{{24 + i}}}."}}
        for i in range(6)
    ]  # fmt: skip
    extra = with_data(recipe, "\n".join(map(json.dumps, [*gsm8k, *verl])).encode())
    extra += ["--set", "data.prompt_field=question"]
    assert cli("train", recipe, "--run-dir", tmp_path / "run", *extra)[0] == 0


def test_prompts_longer_than_the_limit(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    extra = with_data(recipe, json.dumps({"problem": "1" * 100, "answer": "1"}).encode())
    result = cli("train", recipe, "--run-dir", tmp_path / "run", *extra)
    assert_refused(result, tmp_path / "run", "every prompt (1) exceeds data.max_prompt_tokens = 64", "raise it")


def test_some_prompts_too_long_are_dropped_and_said(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = json.dumps({"problem": "1" * 100, "answer": "1"}).encode()
    extra = with_data(recipe, GOOD + b"\n" + long)
    monkeypatch.setattr(sys, "argv", ["deepscaler", "train", str(recipe), "--run-dir", str(tmp_path / "run"), *extra])
    main_exits(0)
    assert "1 of 2 problems dropped: longer than 64 tokens" in capsys.readouterr().out


def main_exits(code: int) -> None:
    try:
        main()
    except SystemExit as end:
        assert (end.code or 0) == code


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json"])
def test_a_damaged_model_directory(cli: Cli, recipe: Path, model: Path, tmp_path: Path, broken: str) -> None:
    (model / broken).write_text("{")
    result = cli("train", recipe, "--run-dir", tmp_path / "run")
    assert_refused(result, tmp_path / "run", str(model))


def test_a_full_disk_while_saving(cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    save, saved = PolicyLearner.save, []

    def full(self: PolicyLearner, directory: Path) -> None:
        save(self, directory)
        saved.append(directory)
        if len(saved) == 1:  # the base model, step 0, is not saved again
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PolicyLearner, "save", full)
        code, message = cli("train", recipe, "--run-dir", run_dir)
    assert code == 1
    assert "checkpoint of step 1 was not written" in message and "the disk is full" in message
    assert "run the same command again" in message
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step-000000"]
    assert cli("train", recipe, "--run-dir", run_dir)[0] == 0
    newest = newest_checkpoint(run_dir / "checkpoints")
    assert newest is not None and newest[0].name == "step-000002"
    assert find_damage(newest[0]) is None


def test_a_full_disk_while_writing_rollouts(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    def full(table: Any, path: Path, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        code, message = cli("train", recipe, "--run-dir", run_dir)
    assert code == 1
    assert "No space left on device" in message and str(run_dir / "rollouts") in message
    assert "the disk is full, so the run stops. Make room and run the same command again" in message
    assert cli("train", recipe, "--run-dir", run_dir)[0] == 0
    assert find_damage(run_dir / "checkpoints" / "step-000002") is None


def test_every_checkpoint_damaged(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert cli("train", recipe, "--run-dir", run_dir)[0] == 0
    for pattern in ("step-000000/base_model.json", "*/model.safetensors"):
        for file in run_dir.glob(f"checkpoints/{pattern}"):
            file.write_bytes(file.read_bytes()[:-1])
    code, message = cli("train", recipe, "--run-dir", run_dir, "--set", "num_steps=3")
    assert code == 1
    assert "every checkpoint in" in message and "model.safetensors differs from its checksum" in message


def test_a_fault_of_ours_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("not written for a user")

    monkeypatch.setattr("deepscaler.cli.doctor.show", fail)
    monkeypatch.setattr(sys, "argv", ["deepscaler", "doctor"])
    with pytest.raises(RuntimeError, match="not written for a user"):
        main()
