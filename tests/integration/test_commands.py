"""The commands a user types, from base model to report, at the smallest size at which everything still happens."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from deepscaler.cli.main import main
from deepscaler.toy.quickstart import stage_summaries

TINY = (
    "sft.hidden_size=32",
    "sft.num_layers=1",
    "sft.num_heads=2",
    "sft.num_kv_heads=1",
    "sft.head_dim=16",
    "sft.mlp_size=48",
    "sft.steps=4",
    "sft.tokens_per_step=256",
    "data.num_problems=50",
    "rollout.prompts_per_step=2",
    "rollout.group_size=2",
    'stages=[{name="24",max_completion_tokens=24,steps=2},{name="40",max_completion_tokens=40}]',
    "num_steps=3",
    "training.processes=1",
    "evaluation.num_problems=3",
    "evaluation.num_samples=2",
    "evaluation.during_training_problems=2",
    "evaluation.during_training_samples=2",
    "evaluation.max_completion_tokens=40",
    "sft.warmup_steps=2",
)
RECIPE = Path("recipes/quickstart.toml").resolve()
Cli = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    """The command line in this process, with the tiny settings; returns the exit code."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, tiny: bool = True) -> int:
        settings = [f"--set={s}" for s in (*TINY, f"sft.output={tmp_path / 'bases'}")] if tiny else []
        monkeypatch.setattr(sys, "argv", ["deepscaler", *map(str, arguments), *settings])
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0
        return 0

    yield call
    signal.signal(signal.SIGTERM, before)


def test_quickstart_leaves_everything_it_names(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs" / "quickstart"
    assert cli("quickstart", RECIPE, "--seed", 3) == 0
    out = capsys.readouterr().out
    summary = json.loads((root / "summary.json").read_text())
    assert summary["seed"] == 3
    assert summary["wall_s"] > 0 and summary["sampling_tokens_per_s"] > 0
    assert summary["training_tokens_per_s"] >= 0  # so small a model gets nothing right, and learns from nothing
    for side in ("base", "trained"):
        assert {"pass@1", "low", "high", "sets"} <= summary[side].keys()
        assert len(summary[side]["sets"]) == 5
    assert {"mean", "low", "high"} <= summary["difference"].keys()
    assert summary["difference"]["mean"] == pytest.approx(summary["trained"]["pass@1"] - summary["base"]["pass@1"])
    assert [(s["budget"], s["steps"]) for s in summary["stages"]] == [(24, 2), (40, 1)]
    for stage in summary["stages"]:
        assert {"truncated_frac_start", "truncated_frac_end", "length_mean_start", "length_mean_end"} <= stage.keys()
        assert stage["pass@1_end"] is not None
    assert summary == json.loads((root / "seed-3" / "summary.json").read_text())
    assert stage_summaries(root / "seed-3") == summary["stages"]
    # What the last lines of the output point to is there.
    for name in ("model", "report"):
        assert Path(summary[name]).exists()
        assert summary[name] in out
    assert "average" in out and "Pass@1 in percent, mean of 2 samples" in out
    assert list(Path(summary["model"]).glob("*.safetensors"))
    # Messages are whole in a file and broken on a terminal only; progress and tables fit everywhere.
    messages = (str(tmp_path), "evaluating ", "most completions", "answers come")
    assert max(len(line.rstrip()) for line in out.splitlines() if not any(m in line for m in messages)) <= 80


def test_quickstart_again_keeps_the_earlier_run_and_reuses_the_base(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "quickstart"
    for _ in range(2):
        assert cli("quickstart", RECIPE, "--seed", 3) == 0
    assert sorted(p.name for p in root.iterdir()) == ["seed-3", "seed-3.1", "summary.json"]
    assert "made earlier" in capsys.readouterr().out
    first, second = (json.loads((root / name / "summary.json").read_text()) for name in ("seed-3.1", "seed-3"))
    assert first["trained"] == second["trained"]  # the seed decides everything
    assert len(list((tmp_path / "bases").iterdir())) == 1


def test_an_interrupted_quickstart_goes_on(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepscaler.toy import quickstart

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "compare_directories", interrupt)
        assert cli("quickstart", RECIPE, "--seed", 3) == 130
    assert not (tmp_path / "runs" / "quickstart" / "summary.json").exists()
    assert cli("quickstart", RECIPE, "--seed", 3) == 0
    summary = json.loads((tmp_path / "runs" / "quickstart" / "summary.json").read_text())
    assert summary["resumed"]
    assert [p.name for p in (tmp_path / "runs" / "quickstart").iterdir() if p.is_dir()] == ["seed-3"]


def test_sft_makes_a_model_that_transformers_loads(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("sft", RECIPE, "--out", tmp_path / "base") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert len(tokenizer) == AutoModelForCausalLM.from_pretrained(tmp_path / "base").config.vocab_size
    assert cli("sft", RECIPE, "--out", tmp_path / "base") == 1
    assert "exists" in capsys.readouterr().err


def test_train_eval_compare_and_report(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("train", RECIPE, "--run-dir", tmp_path / "run", "--set", "checkpoint.every_steps=1") == 0
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (checkpoints / "step-000003" / "model.safetensors").is_file()
    for step in (0, 3):
        model, out = checkpoints / f"step-{step:06d}", tmp_path / f"eval-{step}"
        if step == 0:  # no copy of the base; the message says where it is
            base = json.loads((model / "base_model.json").read_text())["path"]
            assert cli("eval", model, "--recipe", RECIPE, "--out", out) == 1
            assert base in capsys.readouterr().err.replace("\n", "")
            model = Path(base)
        assert cli("eval", model, "--recipe", RECIPE, "--out", out, "--samples", 3, "--limit", 2) == 0
    results = json.loads((tmp_path / "eval-3" / "results.json").read_text())
    assert {(b["num_problems"], b["num_samples"]) for b in results["benchmarks"].values()} == {(2, 3)}
    capsys.readouterr()
    assert cli("compare", tmp_path / "eval-0", tmp_path / "eval-3", tiny=False) == 0
    assert "smallest true difference" in capsys.readouterr().out.replace("\n", "")
    assert cli("report", tmp_path / "run", tiny=False) == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000
