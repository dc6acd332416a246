"""`deepscaler eval` as a user types it: what works, what is refused in one message, what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.evaluation import EvalRecipe
from deepscaler.evaluation.samples import read_results
from scripted_server import ScriptedServer
from server_script import Script
from shared_data import shared
from tiny_run import write_model

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    from deepscaler.cli.main import main

    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["deepscaler", *map(str, arguments)])
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


def test_the_commands_a_user_types(cli: Cli, tmp_path: Path) -> None:
    benchmarks, out = shared("data", "benchmarks"), tmp_path / "eval"
    with ScriptedServer(Script(lambda q, s: "\\boxed{204}")) as server:
        code, said, error = cli(
            "eval", "--endpoint", server.url, "--model", "scripted", "--suite", "competition", "--benchmarks",
            benchmarks, "--out", out, "--samples", 2, "--max-tokens", 2048, "--limit", 3, "--concurrency", 64,
        )  # fmt: skip
        assert code == 0, error
        assert "olympiadbench" in said and "written to" in said
        assert server.bodies[-1]["max_tokens"] == 2048
        assert server.bodies[-1]["messages"][0]["content"].endswith(EvalRecipe().suite.instruction)
    settings = read_results(out)["settings"]
    assert (settings["num_samples"], settings["limit"]) == (2, 3)
    assert all(len(d["file_sha256"]) == 64 for d in settings["datasets"].values())
    code, said, _ = cli("regrade", out)
    assert code == 0 and "unchanged: 30" in said


def test_bad_input_is_one_message_each(cli: Cli, tmp_path: Path, tiny: Path) -> None:
    benchmarks, out = shared("data", "benchmarks"), tmp_path / "eval"
    common = ("--suite", "aime24", "--benchmarks", benchmarks, "--out", out)

    def refused(*arguments: object) -> str:
        code, _, error = cli("eval", *arguments)
        assert code in (1, 2) and error.startswith("deepscaler: error: ") and "Traceback" not in error
        assert not (out / "results.json").exists()
        return error

    assert "say what to evaluate" in refused(*common)
    assert "needs --model" in refused("--endpoint", "http://127.0.0.1:1/v1", *common)
    quick = ("--set", "client.connect_attempts=1")
    assert "no OpenAI-compatible server answers" in refused(
        "--endpoint", "http://127.0.0.1:1/v1", "--model", "m", *common, *quick
    )
    assert "say which problems" in refused(tiny, "--out", out)
    assert "unknown benchmark 'aime99'" in refused(tiny, "--suite", "aime99", "--benchmarks", benchmarks, "--out", out)
    assert "is no directory" in refused(tiny, "--suite", "aime24", "--benchmarks", tmp_path / "none", "--out", out)
    assert "sampling.num_sample" in refused(tiny, *common, "--set", "sampling.num_sample=3")
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "aime24.json").write_bytes((benchmarks / "aime24.json").read_bytes().replace(b"9", b"8", 1))
    message = refused(tiny, "--suite", "aime24", "--benchmarks", changed, "--out", out)
    assert "SHA-256" in message and "cannot be compared" in message
    no_template = write_model(tmp_path / "bare")
    (no_template / "chat_template.jinja").unlink()
    assert "no chat template" in refused(no_template, *common)
    assert "above the model's context" in refused(tiny, *common)


def test_ctrl_c_keeps_what_came(tmp_path: Path, cli: Cli) -> None:
    benchmarks, out = shared("data", "benchmarks"), tmp_path / "eval"
    common = ("--model", "scripted", "--suite", "aime24", "--benchmarks", benchmarks, "--out", out, "--samples", 4)

    sent: list[int] = []

    def interrupting(question: str, seed: int) -> str:
        if len(server.bodies) >= 60 and not sent:
            sent.append(seed)
            os.kill(os.getpid(), signal.SIGINT)
        return "\\boxed{1}"

    with ScriptedServer(Script(interrupting, latency_s=0.01)) as server:
        code, said, _ = cli("eval", "--endpoint", server.url, *common, "--concurrency", 4)
        assert code == 130 and "samples are kept" in said
        stored = json.loads((out / "results.partial.json").read_text())["num_stored"]
        assert 20 < stored < 120
        server.script.latency_s = 0.0
        code, said, _ = cli("eval", "--endpoint", server.url, *common)
        assert code == 0 and f"{stored} of 120 samples exist already" in said
