"""Evaluations with vLLM: in the process, and through its OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from deepscaler.config.evaluation import load_evaluation
from deepscaler.engines.openai.http import EndpointError
from deepscaler.engines.vllm.installation import vllm_version
from deepscaler.evaluation.datasets import describe
from deepscaler.evaluation.samples import read_results, read_samples
from deepscaler.lifetime import die_with_parent
from deepscaler.loop.evaluate import Job, evaluate_endpoint, evaluate_model
from deepscaler.loop.progress import Progress
from deepscaler.types import FinishReason, Problem
from shared_data import shared
from tiny_run import deepscaler, write_model
from vllm_engines import START_LIMIT_S

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own

CHAINS = {"chains": [Problem(f"c{i}", f"{i + 10} a+25", (f"{(i + 35) % 100:02d}",)) for i in range(12)]}
QUICK = ("client.backoff_s=0.01", "client.total_s=60", "sampling.num_samples=2", "sampling.max_completion_tokens=16")


def job(out: Path, *overrides: str, log: StringIO | None = None) -> Job:
    recipe = load_evaluation(None, [*QUICK, 'suite.instruction=""', "engine.processes=1", *overrides])
    return Job(recipe, describe(CHAINS), out, Progress(log or StringIO(), terminal=False))


def completions(out: Path) -> dict[tuple[str, int], tuple[str, str, int]]:
    rows = read_samples(out).to_pylist()
    return {(r["problem_id"], r["sample_index"]): (r["completion"], r["finish_reason"], r["num_tokens"]) for r in rows}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose generation_config would change every completion, were it to be obeyed."""
    path = write_model(tmp_path_factory.mktemp("model"), hidden_size=64, head_dim=32)
    file = path / "generation_config.json"
    unwanted = {"do_sample": True, "top_k": 1, "repetition_penalty": 1.5, "temperature": 0.2}
    file.write_text(json.dumps({**json.loads(file.read_text()), **unwanted}))
    return path


def test_the_command_evaluates_and_goes_on_only_with_the_same_engine(tiny: Path, tmp_path: Path) -> None:
    benchmarks = shared("data", "benchmarks")
    common = ("eval", tiny, "--suite", "aime24", "--benchmarks", benchmarks, "--limit", 3, "--out", tmp_path / "e")
    arguments = (*common, "--samples", 2, "--max-tokens", 8)
    first = deepscaler(*arguments, "--engine", "vllm")
    assert first.returncode == 0, first.stderr
    settings = read_results(tmp_path / "e")["settings"]
    assert settings["engine"]["kind"] == "vllm" and settings["engine"]["dtype"] == "float32"
    assert settings["engine"]["versions"]["vllm"] == vllm_version()
    again = deepscaler(*arguments, "--engine", "vllm")
    assert again.returncode == 0 and "6 of 6 samples exist already" in again.stdout + again.stderr
    other = deepscaler(*arguments)
    assert other.returncode != 0 and "engine.kind" in other.stderr


def test_greedy_completions_are_the_embedded_engines(tiny: Path, tmp_path: Path) -> None:
    evaluate_model(tiny, job(tmp_path / "ours", "sampling.temperature=0"))
    evaluate_model(tiny, job(tmp_path / "theirs", "sampling.temperature=0", 'engine.kind="vllm"'))
    assert completions(tmp_path / "ours") == completions(tmp_path / "theirs")


def test_sampled_completions_are_a_function_of_the_seed(tiny: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        evaluate_model(tiny, job(tmp_path / name, f"seed={seed}", 'engine.kind="vllm"'))
    a, b, c = (completions(tmp_path / name) for name in "abc")
    assert a == b and a != c
    assert len({text for text, _, _ in a.values()}) > 20  # of 24: the samples of a problem differ


@dataclass(frozen=True)
class Served:
    address: str
    log: Path


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """vLLM's own OpenAI-compatible server, with a context of 400 tokens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "400", "--enforce-eager",
    ]  # fmt: skip
    settings = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment = {**os.environ, **settings, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, preexec_fn=die_with_parent
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield Served(f"http://127.0.0.1:{port}/v1", log)
    finally:
        process.terminate()  # it ends its engine's process
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"vLLM's server did not start:\n{log.read_text()[-3000:]}")


def test_the_server_gives_what_the_engine_gives(server: Served, tiny: Path, tmp_path: Path) -> None:
    """Also the special tokens that a random model emits, which the server leaves out unless asked not to."""
    greedy = ("sampling.temperature=0", "sampling.num_samples=1")
    log = StringIO()
    evaluate_endpoint(server.address, "tiny", job(tmp_path / "server", *greedy, log=log))
    evaluate_model(tiny, job(tmp_path / "engine", *greedy))
    assert completions(tmp_path / "server") == completions(tmp_path / "engine")
    assert read_results(tmp_path / "server")["server"]["owned_by"] == "vllm"
    assert "warning: " not in log.getvalue()  # it ignores nothing it was asked


def test_the_server_obeys_the_seed_and_not_the_models_defaults(server: Served, tmp_path: Path) -> None:
    """Its generation_config says top_k = 1: with that, all samples of a problem would be the same."""
    settings = ("sampling.temperature=1.0", "sampling.top_k=50", "sampling.num_samples=4")
    for name in "ab":
        log = StringIO()
        evaluate_endpoint(server.address, "tiny", job(tmp_path / name, *settings, log=log))
        assert "warning: " not in log.getvalue().replace("warning: chains", "")
    a, b = completions(tmp_path / "a"), completions(tmp_path / "b")
    assert a == b and len({text for text, _, _ in a.values()}) > 40  # of 48
    for _, reason, num_tokens in a.values():
        assert (reason, num_tokens) == ("length", 16) or (reason == "stop" and num_tokens <= 16)


def test_a_budget_that_the_server_lowers_is_reported(server: Served, tmp_path: Path) -> None:
    """Below its context of 400, but not together with the prompt: vLLM 0.32 cuts early without a word."""
    loops = ("sampling.temperature=0", "sampling.num_samples=1")  # greedy, this model never stops
    results = evaluate_endpoint(server.address, "tiny", job(tmp_path, "sampling.max_completion_tokens=395", *loops))
    reasons = [reason for _, reason, _ in completions(tmp_path).values()]
    cut = reasons.count(FinishReason.LENGTH)
    assert cut > 0
    assert any(f"{cut} of 12 replies were truncated before the budget" in text for text in results.content["warnings"])


def test_a_wrong_name_and_a_budget_above_the_context_are_refused(server: Served, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="serves no model 'other'; it serves tiny"):
        evaluate_endpoint(server.address, "other", job(tmp_path / "a"))
    with pytest.raises(EndpointError, match="budget of 400 tokens above the model's context"):
        evaluate_endpoint(server.address, "tiny", job(tmp_path / "b", "sampling.max_completion_tokens=400"))
