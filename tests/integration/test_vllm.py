"""vLLM for real: what its engine adds to the conformance suite, and evaluations through it and through its server.

It is heavy and pins its own torch: `make test-vllm` makes an environment for it and runs this there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from deepscaler.config.evaluation import load_evaluation
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.openai.http import EndpointError
from deepscaler.engines.vllm import engine as vllm_engine
from deepscaler.engines.vllm.engine import VllmEngine, vllm_version
from deepscaler.evaluation.datasets import describe
from deepscaler.evaluation.samples import read_results, read_samples
from deepscaler.lifetime import die_with_parent
from deepscaler.loop.evaluate import Job, evaluate_endpoint, evaluate_model
from deepscaler.loop.progress import Progress
from deepscaler.modeling.head import forbid_ids
from deepscaler.modeling.positions import cast_parameters
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.observability.run_directory import read_metrics
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import FinishReason, Problem, Request, Rollout, RunError, SamplingParams, TrainSample
from shared_data import shared
from tiny_run import deepscaler, write_model, write_recipe

if vllm_version() is None:
    pytest.skip(
        "vLLM is not installed; `make test-vllm` makes an environment for it and runs this", allow_module_level=True
    )

pytestmark = pytest.mark.filterwarnings("ignore")  # its own
STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=24, temperature=0.9, seed=5, step=2)
START_LIMIT_S = 200.0


def requests(count: int = 4, samples: int = 3) -> list[Request]:
    """Prompts longer than a block of the cache, so that a group shares what was computed of it."""
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 40 + i % 5).astype(np.int32), samples) for i in range(count)]


def start(model: Any, directory: Path, **settings: Any) -> VllmEngine:
    model.save_pretrained(directory)
    return VllmEngine(directory, stop_ids=STOP, **{"max_active": 8, **settings})


def worst_error(rollouts: list[Rollout], model: Any, temperature: float) -> float:
    """The largest distance of a reported log-probability from a full forward pass of transformers."""
    model.set_attn_implementation("eager")
    worst = 0.0
    for rollout in rollouts:
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            predicted = torch.log_softmax(model(ids[None]).logits[0] / temperature, -1)
        expected = predicted[len(rollout.prompt_ids) - 1 : -1].gather(1, ids[len(rollout.prompt_ids) :, None])[:, 0]
        worst = max(worst, float(np.abs(expected.numpy() - rollout.rollout_logprobs).max()))
    return worst


def test_ids_without_a_token_are_left_out_as_in_the_learner(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    forbidden = [3, 4, 17, 36, 37, 38, 39]
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path, forbidden_ids=forbidden)
    forbid_ids(model, forbidden)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=PARAMS.temperature)
    for params in (PARAMS, replace(PARAMS, temperature=0.0), replace(PARAMS, top_k=3)):
        rollouts = list(engine.generate(requests(), params))
        assert not any(np.isin(r.completion_ids, forbidden).any() for r in rollouts)
        if params is PARAMS:
            ones = [np.ones(r.num_tokens, np.float32) for r in rollouts]
            samples = [
                TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, weights, 0)
                for r, weights in zip(rollouts, ones, strict=True)
            ]
            for rollout, found in zip(rollouts, computer.logprobs(samples), strict=True):
                np.testing.assert_allclose(rollout.rollout_logprobs, found, atol=5e-5)
    engine.close()


def test_prompts_may_have_more_tokens_than_a_step_takes(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """55 prompts of about 42 tokens each and no prefix in common: the 49th would be split over two steps of 2048."""
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path, max_active=64)
    rng = np.random.default_rng(3)
    wanted = [Request(f"p{i}", rng.integers(2, 40, 39 + i % 5).astype(np.int32), 1) for i in range(55)]
    rollouts = list(engine.generate(wanted, PARAMS))
    assert len(rollouts) == 55
    assert worst_error(rollouts[-8:], model, PARAMS.temperature) < 5e-5
    engine.close()


def test_stop_strings_are_refused_before_vllm_starts(tmp_path: Path) -> None:
    recipe = load_evaluation(None, ['engine.kind="vllm"', 'sampling.stop=["x"]', "sampling.max_completion_tokens=20"])
    job = Job(recipe, describe({"a": [Problem("1", "1+1", ("2",))]}), tmp_path / "out", Progress())
    with pytest.raises(ValueError, match="runs without the tokenizer"):
        evaluate_model(write_model(tmp_path / "model", hidden_size=64, head_dim=32), job)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_after_loading_weights_the_samples_are_theirs(
    tiny_model: Callable[..., Any], tmp_path: Path, family: str, tied: bool
) -> None:
    model, other = (tiny_model(family, seed=seed, tied=tied, head_dim=32) for seed in (0, 9))
    engine = start(model, tmp_path)
    assert engine.weights_info().digest == weights_digest(model.named_parameters())
    assert worst_error(list(engine.generate(requests(), PARAMS)), model, 0.9) < 5e-5
    engine.load_weights(LiveWeights(7, other.named_parameters))
    rollouts = list(engine.generate(requests(), PARAMS))
    assert worst_error(rollouts, other, 0.9) < 5e-5 and {r.policy_version for r in rollouts} == {7}
    assert engine.weights_info().digest == weights_digest(other.named_parameters())


def test_a_stale_packed_output_layer_is_found(
    tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of vLLM 0.32 on CPU that loading repairs: without the repair the digest is refused, not reported."""
    engine = start(tiny_model(head_dim=32), tmp_path)
    other = tiny_model(seed=9, head_dim=32)
    with monkeypatch.context() as unrepaired:
        unrepaired.setattr(vllm_engine, "repack_tied_head", lambda model: None)
        with pytest.raises(RunError, match="a stale packed copy"):
            engine.load_weights(LiveWeights(1, other.named_parameters))
    assert worst_error(list(engine.generate(requests(), PARAMS)), other, 0.9) > 0.1
    engine.load_weights(LiveWeights(2, other.named_parameters))
    assert engine.weights_info().digest == weights_digest(other.named_parameters())


def test_weights_that_are_not_the_whole_model_are_refused_and_change_nothing(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path)
    given = {name: weight.detach() for name, weight in tiny_model(seed=9, head_dim=32).named_parameters()}
    name = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(
        ValueError, match=r"weights are missing, 1 in all, the first of them model\.layers\.0\.self_attn\.k_proj"
    ):
        engine.load_weights(LiveWeights(1, lambda: [pair for pair in given.items() if pair[0] != name]))
    with pytest.raises(ValueError, match=r"has shape \(64, 64\), vLLM's model has \(64, 128\)"):
        engine.load_weights(LiveWeights(1, {**given, name: torch.zeros(64, 64)}.items))
    with pytest.raises(KeyError, match="unheard_of"):
        engine.load_weights(LiveWeights(1, {**given, "unheard_of": torch.zeros(1)}.items))
    assert engine.weights_info().digest == weights_digest(model.named_parameters())
    with pytest.raises(NotImplementedError):  # fails half-way: there is nothing to copy
        engine.load_weights(LiveWeights(1, {**given, name: torch.empty(64, 128, device="meta")}.items))
    for use in (engine.weights_info, lambda: next(engine.generate(requests(), PARAMS))):
        with pytest.raises(RunError, match="loading weights into it failed; start a new one"):
            use()


def test_negative_zeros_do_not_change_the_digest(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0].fill_(-0.0)
    engine.load_weights(LiveWeights(1, model.named_parameters))
    assert engine.weights_info().digest == weights_digest(model.named_parameters())


def test_bfloat16_weights_are_those_of_the_learner_cast(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model, other = (tiny_model(seed=seed, head_dim=32) for seed in (0, 9))
    engine = start(model, tmp_path, dtype=torch.bfloat16)
    engine.load_weights(LiveWeights(1, other.named_parameters))
    assert engine.weights_info().digest == weights_digest(other.named_parameters(), torch.bfloat16)
    rollouts = list(engine.generate(requests(), PARAMS))
    assert worst_error(rollouts, cast_parameters(cast_parameters(other, torch.bfloat16), torch.float32), 0.9) < 0.5


def test_log_probabilities_are_those_before_truncation_or_not_a_number(
    tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, narrowed = tiny_model(head_dim=32), replace(PARAMS, top_k=3, top_p=0.8)
    assert worst_error(list(start(model, tmp_path).generate(requests(), narrowed)), model, 0.9) < 5e-5
    monkeypatch.setattr(vllm_engine, "_report_untruncated", lambda runner: False)  # a release that hides its sampler
    blind = start(model, tmp_path)
    assert all(np.isnan(r.rollout_logprobs).all() for r in blind.generate(requests(), narrowed))
    assert worst_error(list(blind.generate(requests(), PARAMS)), model, 0.9) < 5e-5


def test_greedy_completions_are_the_likeliest_tokens(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    rollouts = list(start(model, tmp_path).generate(requests(samples=1), replace(PARAMS, temperature=0.0)))
    assert worst_error(rollouts, model, 1.0) < 5e-5
    for rollout in rollouts:
        ids = torch.tensor(np.concatenate([rollout.prompt_ids, rollout.completion_ids]), dtype=torch.int64)
        with torch.no_grad():
            best = model(ids[None]).logits[0].argmax(-1)
        np.testing.assert_array_equal(best[len(rollout.prompt_ids) - 1 : -1], rollout.completion_ids)


def test_what_does_not_fit_into_the_cache_waits_or_is_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    token = 2 * 2 * 2 * 32 * 4  # bytes: keys and values, layers, heads, width, float32
    engine = start(model, tmp_path, max_tokens=96, max_cache_bytes=7 * 32 * token)  # two sequences and one block
    rollouts = list(engine.generate(requests(6), PARAMS))
    assert len(rollouts) == 18 and worst_error(rollouts, model, 0.9) < 5e-5
    with pytest.raises(ValueError, match="exceeds the engine's limit of 96 tokens"):
        list(engine.generate(requests(1), replace(PARAMS, max_completion_tokens=80)))
    with pytest.raises(ValueError, match="a sequence of 96 tokens does not fit into a cache"):
        start(model, tmp_path, max_tokens=96, max_cache_bytes=3 * 32 * token)


def test_one_generation_at_a_time_and_none_after_the_end(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    before = (os.environ.get("LD_PRELOAD"), torch.set_num_threads)
    cancelled = []
    engine = start(model, tmp_path, is_cancelled=lambda: bool(cancelled))
    assert (os.environ.get("LD_PRELOAD"), torch.set_num_threads) == before
    going = engine.generate(requests(), PARAMS)
    next(going)
    with pytest.raises(RunError, match="is still open"):
        next(engine.generate(requests(), PARAMS))
    with pytest.raises(RunError, match="is still open"):
        engine.load_weights(LiveWeights(1, model.named_parameters))
    cancelled.append(True)
    assert len(list(going)) < 11
    cancelled.clear()
    assert len(list(engine.generate(requests(), PARAMS))) == 12
    engine.close()
    with pytest.raises(RunError, match="was closed"):
        next(engine.generate(requests(), PARAMS))


def test_other_weights_beside_the_model_are_not_taken_for_it(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """A run's checkpoint keeps its reference there, under the same names; vLLM reads every file it finds."""
    model, other = (tiny_model(seed=seed, head_dim=32) for seed in (0, 9))
    model.save_pretrained(tmp_path)
    save_file({name: weight.detach() for name, weight in other.named_parameters()}, tmp_path / "reference.safetensors")
    engine = start(model, tmp_path)
    assert engine.weights_info().digest == weights_digest(model.named_parameters())


def test_a_model_in_several_files_is_read_whole(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    engine = VllmEngine(tmp_path, stop_ids=STOP)
    assert engine.weights_info().digest == weights_digest(model.named_parameters())
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor model"):
        VllmEngine(tmp_path, stop_ids=STOP)


def test_a_model_that_vllm_builds_with_other_shapes_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, hidden_size=32, head_dim=32)  # two heads of 32 in a width of 32; vLLM takes them for 16
    with pytest.raises(ValueError, match=r"vLLM built the model with .* use the torch engine"):
        VllmEngine(tmp_path, stop_ids=STOP)


# Evaluations

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
    assert again.returncode == 0 and "6 of 6 samples are there already" in again.stdout + again.stderr
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


def test_training_samples_with_vllm_and_every_update_reaches_it(tmp_path: Path) -> None:
    """The loop stops where the digest of what vLLM holds is not the learner's; the mismatch shows whether it lies."""
    model = write_model(tmp_path / "model", hidden_size=64, head_dim=32)
    recipe, run_dir = write_recipe(tmp_path, num_steps=4, processes=1, model=model), tmp_path / "run"
    # Large steps: with the weights of the step before, log-probabilities would be far off.
    settings = ("--set", 'rollout.engine="vllm"', "--set", "optimizer.learning_rate=0.01")
    done = deepscaler("train", recipe, "--run-dir", run_dir, *settings, timeout_s=START_LIMIT_S)
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert max(row["mismatch_max"] for row in rows) < 1e-3
    for step in range(1, 5):
        table = pq.read_table(run_dir / "rollouts" / f"step-{step:06d}.parquet")
        assert set(table["policy_version"].to_pylist()) == {step - 1}
