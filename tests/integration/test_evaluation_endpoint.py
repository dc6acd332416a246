"""An evaluation over HTTP: faults cost no sample and no truth, and nothing is asked twice."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from aiohttp import web

from deepscaler.engines.openai.http import EndpointError
from deepscaler.evaluation.samples import read_results
from deepscaler.loop.evaluate import evaluate_endpoint
from deepscaler.observability.counts import counted
from deepscaler.types import RunError
from evaluation_jobs import RATES, REPLY, figures, job, table
from scripted_server import ScriptedServer
from server_script import Faults, Script


def test_planted_faults_change_no_estimate_and_are_all_counted(tmp_path: Path) -> None:
    faults = Faults(
        error_500=0.05,
        hang_up=0.05,
        malformed=0.02,
        half_body=0.01,
        duplicate=0.02,
        rate_limit=0.02,
        truncated=0.02,
        replies_back=40,
    )
    log = StringIO()
    with ScriptedServer(Script(REPLY, faults=faults)) as server:
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=8", log=log))
        planted = server.planted
        kept = {pair for pair, _ in server.asked.items()}
    content = results.content
    for name, rate in RATES.items():
        figure = content["benchmarks"][name]
        expected = rate * (1 - figure["truncated_frac"])  # truncated completions count as wrong
        assert figure["low_resampling"] <= expected <= figure["high_resampling"]
        assert (figure["num_problems"], figure["num_samples"]) == (40, 8)
        assert figure["outcomes"]["truncated"] == figure["truncated_frac"] * 320 > 0
    rows = table(tmp_path)
    keys = [(r["benchmark"], r["problem_id"], r["sample_index"]) for r in rows]
    assert len(keys) == len(set(keys)) == 640 and keys == sorted(keys, key=keys.index)
    # Every completion is the one that its own seed gives: none was swapped, none stands twice.
    assert all(f"hm {r['seed']}" in r["completion"] for r in rows if r["finish_reason"] == "stop")
    assert len({r["seed"] for r in rows}) == 640 and len(kept) == 640 + 3  # and the seeds of the probes
    words = " ".join(content["warnings"])
    for kind, count in (
        ("http_5xx", planted["error_500"]),
        ("http_429", planted["rate_limit"]),
        ("dropped", planted["hang_up"] + planted["half_body"]),
        ("malformed", planted["malformed"]),
        ("duplicate", planted["duplicate"]),
    ):
        assert count > 0 and f"{counted(count, 'attempt')} failed, each repeated: {kind}" in words
    assert "640/640" in log.getvalue() and "[" in log.getvalue()


def test_results_say_exactly_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    with ScriptedServer(Script(REPLY, key="sk-very-secret")) as server:
        evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
    results = read_results(tmp_path)
    settings = results["settings"]
    assert settings["temperature"] == 0.6 and settings["top_p"] == 0.95 and settings["max_completion_tokens"] == 32768
    assert settings["datasets"]["easy"].keys() == {"rows_sha256", "num_problems"}
    assert settings["grader"]["version"] and settings["engine"]["kind"] == "openai"
    assert len(results["row_hashes"]["hard"]) == 40 and len(results["settings_sha256"]) == 64
    assert {"hardware", "versions", "seconds"} <= results["run"].keys()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"sk-very-secret" not in file.read_bytes()


def test_the_same_command_again_asks_for_nothing(tmp_path: Path) -> None:
    with ScriptedServer(Script(REPLY)) as server:
        evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=1"))
        before, asked = figures(tmp_path), len(server.bodies)
        evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=1"))
        assert len(server.bodies) == asked
        assert figures(tmp_path) == before
        with pytest.raises(ValueError, match=r"temperature: 0.6 -> 0.7\)"):
            evaluate_endpoint(
                server.url, "scripted", job(tmp_path, "sampling.num_samples=1", "sampling.temperature=0.7")
            )
        # How it is transported shapes nothing.
        evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=1", "client.concurrency=7"))


def test_a_server_that_dies_leaves_what_came_and_the_rest_is_asked_later(tmp_path: Path) -> None:
    with ScriptedServer(Script(REPLY)) as server:
        whole = tmp_path / "whole"
        evaluate_endpoint(server.url, "scripted", job(whole, "sampling.num_samples=2"))
        server.bodies.clear()

        def dying(question: str, seed: int) -> str:
            server.down = server.down or len(server.bodies) > 60
            return REPLY(question, seed)

        server.script.reply = dying
        out = tmp_path / "cut"
        with pytest.raises(EndpointError, match="Finished samples are kept"):
            evaluate_endpoint(server.url, "scripted", job(out, "sampling.num_samples=2", "client.max_attempts=2"))
        partial = json.loads((out / "results.partial.json").read_text())
        assert not (out / "results.json").exists()
        assert 0 < partial["num_stored"] < 160 and "pass@1" in partial["pass@1_so_far"]["easy"]
        server.script.reply, server.down = REPLY, False
        server.bodies.clear()
        evaluate_endpoint(server.url, "scripted", job(out, "sampling.num_samples=2"))
        assert 160 - partial["num_stored"] <= len(server.bodies) <= 160 - partial["num_stored"] + 6  # and the probes
        assert table(out) == table(whole) and figures(out) == figures(whole)
        assert not (out / "results.partial.json").exists()


def test_samples_that_cannot_be_had_are_named_and_the_others_kept(tmp_path: Path) -> None:
    def reply(question: str, seed: int) -> str:
        if question.startswith("What is 3 at 0.8?"):
            raise web.HTTPServiceUnavailable  # for this problem alone
        return REPLY(question, seed)

    class Waits(dict[str, float]):
        """Others take so long that this problem is given up before any of them has answered."""

        def get(self, question: str, default: float = 0.0) -> float:  # type: ignore[override]
            return 0.0 if question.startswith("What is 3 at 0.8?") else 0.5

    with ScriptedServer(Script(reply, wait_s=Waits())) as server:
        with pytest.raises(RunError, match=r"2 samples could not be obtained.*0.8/3.*asks for the missing ones again"):
            evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2", "client.max_attempts=2"))
        server.script.reply, server.script.wait_s = REPLY, {}
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
    assert results.content["run"]["resumed_samples"] == 158


def test_a_start_that_is_refused_leaves_no_directory(tmp_path: Path) -> None:
    with ScriptedServer(Script(REPLY)) as server, pytest.raises(EndpointError, match="serves no model 'other'"):
        evaluate_endpoint(server.url, "other", job(tmp_path / "new" / "out"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").write_text("kept")
    with ScriptedServer(Script(REPLY)) as server, pytest.raises(EndpointError):
        evaluate_endpoint(server.url, "other", job(tmp_path / "old"))
    assert (tmp_path / "old" / "mine.txt").read_text() == "kept"


def test_requests_that_the_server_loses_cost_no_sample(tmp_path: Path) -> None:
    faults = Faults(silence=0.02, silence_s=3600.0)
    quick = ("sampling.num_samples=4", "client.lost_s=0.5", "client.total_s=3000")
    with ScriptedServer(Script(REPLY, faults=faults)) as server:
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, *quick))
        planted = server.planted["silence"]
    assert len(table(tmp_path)) == 320 and planted > 0
    assert f"{counted(planted, 'attempt')} failed, each repeated: lost" in " ".join(results.content["warnings"])
