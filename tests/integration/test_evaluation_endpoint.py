"""An evaluation over HTTP: faults cost no sample and no truth, kills lose nothing, and both engines agree."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from deepscaler.config.evaluation import EvalRecipe, load_evaluation
from deepscaler.data.benchmarks import BENCHMARKS
from deepscaler.evaluation.datasets import Datasets, describe, load_suite
from deepscaler.evaluation.regrade import regrade
from deepscaler.evaluation.samples import read_results, read_samples
from deepscaler.orchestration.evaluate import (
    Job,
    evaluate_endpoint,
    evaluate_model,
    grader_settings,
    text_grader,
)
from deepscaler.orchestration.progress import Progress
from deepscaler.rollout.openai_http import EndpointError
from deepscaler.types import Outcome, Problem, RunError
from scripted_server import Faults, Script, ScriptedServer, right_with_probability
from served_model import served
from shared_data import shared
from tiny_run import write_model

QUICK = ("client.backoff_s=0.01", "client.backoff_max_s=0.05", "client.total_s=20", "client.concurrency=32")
RATES = {"easy": 0.8, "hard": 0.2}


def problems(rate: float, count: int = 40) -> list[Problem]:
    return [Problem(f"{rate}/{i}", f"What is {i} at {rate}?", (str(i),), difficulty=float(i % 3)) for i in range(count)]


SETS = {name: problems(rate) for name, rate in RATES.items()}
ANSWERS = {p.prompt: p.references[0] for ps in SETS.values() for p in ps}
REPLY = right_with_probability(ANSWERS, lambda q: 0.8 if "at 0.8" in q else 0.2)


def job(out: Path, *overrides: str, datasets: Datasets | None = None, log: StringIO | None = None) -> Job:
    recipe = load_evaluation(None, [*QUICK, *overrides])
    return Job(recipe, datasets or describe(SETS), out, Progress(log or StringIO(), terminal=False))


def table(out: Path) -> list[dict[str, Any]]:
    """All of samples.parquet but how long each request took."""
    rows = read_samples(out).to_pylist()
    return [{k: v for k, v in row.items() if k != "latency_s"} for row in rows]


def figures(out: Path) -> Any:
    results = read_results(out)
    return {k: results[k] for k in ("benchmarks", "average", "settings")}


def test_planted_faults_change_no_estimate_and_are_all_counted(tmp_path: Path) -> None:
    faults = Faults(
        error_500=0.05, hang_up=0.05, malformed=0.02, half_body=0.01, duplicate=0.02, rate_limit=0.02, truncated=0.02
    )
    log = StringIO()
    with ScriptedServer(Script(REPLY, faults=faults)) as server:
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=8", log=log))
        planted, probes = server.planted, 4
        kept = {pair for pair, _ in server.asked.items()}
    content = results.content
    for name, rate in RATES.items():
        figure = content["benchmarks"][name]
        expected = rate * (1 - figure["truncated_frac"])  # what is cut at the budget counts as wrong
        assert figure["low_resampling"] <= expected <= figure["high_resampling"]
        assert (figure["num_problems"], figure["num_samples"]) == (40, 8)
        assert figure["outcomes"]["truncated"] == figure["truncated_frac"] * 320 > 0
    rows = table(tmp_path)
    keys = [(r["benchmark"], r["problem_id"], r["sample_index"]) for r in rows]
    assert len(keys) == len(set(keys)) == 640 and keys == sorted(keys, key=keys.index)
    # Every completion is the one that its own seed gives: none was swapped, none stands twice.
    assert all(f"hm {r['seed']}" in r["completion"] for r in rows if r["finish_reason"] == "stop")
    assert len({r["seed"] for r in rows}) == 640 and len(kept) >= 640 + probes - 1
    words = " ".join(content["warnings"])
    for kind, count in (
        ("http_5xx", planted["error_500"]),
        ("http_429", planted["rate_limit"]),
        ("dropped", planted["hang_up"] + planted["half_body"]),
        ("malformed", planted["malformed"]),
        ("duplicate", planted["duplicate"]),
    ):
        assert count > 0 and f"{count} attempts failed and were repeated: {kind}" in words
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
        assert 160 - partial["num_stored"] <= len(server.bodies) <= 160 - partial["num_stored"] + 4  # and the probes
        assert table(out) == table(whole) and figures(out) == figures(whole)
        assert not (out / "results.partial.json").exists()


def test_samples_that_cannot_be_had_are_named_and_the_others_kept(tmp_path: Path) -> None:
    def reply(question: str, seed: int) -> str:
        if question.startswith("What is 3 at 0.8?"):
            raise web.HTTPServiceUnavailable  # for this problem alone
        return REPLY(question, seed)

    with ScriptedServer(Script(reply)) as server:
        with pytest.raises(RunError, match=r"2 samples could not be had.*0.8/3.*asks for the missing ones again"):
            evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2", "client.max_attempts=2"))
        server.script.reply = REPLY
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
    assert results.content["run"]["resumed_samples"] == 158


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
point, count = sys.argv[2], int(sys.argv[3])
from deepscaler.evaluation import finish, store
import test_evaluation_endpoint as t
owner, name = {"sample": (store.SampleStore, "add"), "verdict": (store.SampleStore, "add_verdict"),
               "table": (finish, "write_rows")}[point]
original, calls = getattr(owner, name), 0
def dying(*arguments, **keywords):
    global calls
    result = original(*arguments, **keywords)
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, dying)
t.evaluate_endpoint(sys.argv[4], "scripted", t.job(t.Path(sys.argv[5]), "sampling.num_samples=2"))
"""


def test_killed_at_three_points_the_final_table_is_the_same(tmp_path: Path) -> None:
    with ScriptedServer(Script(REPLY)) as server:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        evaluate_endpoint(server.url, "scripted", job(whole, "sampling.num_samples=2"))
        server.bodies.clear()
        for point, count in (("sample", 40), ("verdict", 30), ("table", 1)):
            command = [
                sys.executable,
                "-c",
                KILLED,
                str(Path(__file__).parent),
                point,
                str(count),
                server.url,
                str(killed),
            ]
            path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
            ended = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": path}, timeout=200, capture_output=True, text=True
            )
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            assert not (killed / "results.json").exists()
        # A torn last line on top of it, as a power failure leaves it.
        journal = killed / "journal" / "completions.jsonl"
        journal.write_bytes(journal.read_bytes()[:-7])
        evaluate_endpoint(server.url, "scripted", job(killed, "sampling.num_samples=2"))
        # 160 samples, what was under way at the first kills, the torn one, and four probes for each start.
        assert len(server.bodies) <= 160 + 2 * 32 + 1 + 3 * 4
    assert table(killed) == table(whole) and figures(killed) == figures(whole)


def test_regrading_changes_what_the_grader_changed_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(Script(REPLY, faults=Faults(truncated=0.1))) as server:
        evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
        before, rows = read_results(tmp_path), table(tmp_path)
        recipe = EvalRecipe()
        with text_grader(recipe.grader) as grader:
            same = regrade(tmp_path, grader, grader_settings(recipe.grader))
        assert not same.changed and table(tmp_path) == rows
        assert json.loads((tmp_path / "results.1.json").read_text()) == before

        class Harsh:
            """A grader that accepts nothing."""

            def grade_many(self, items: Any) -> Any:
                from deepscaler.types import Verdict

                return [Verdict(Outcome.WRONG, 0.0, "x", "harsh") for _ in items]

        harsh = regrade(tmp_path, Harsh(), {**grader_settings(recipe.grader), "version": "harsh"})
        right = sum(r["outcome"] == "correct" for r in rows)
        assert harsh.transitions["correct", "wrong"] == len(harsh.changed) == right > 0
        assert harsh.transitions["truncated", "truncated"] == sum(r["outcome"] == "truncated" for r in rows) > 0
        assert harsh.results.average.mean == 0.0 and harsh.old_results.name == "results.2.json"
        assert harsh.results.content["regraded"]["changes"] == {"correct -> wrong": right}
        # The store knows: going on with the old grader would mix verdicts.
        with pytest.raises(ValueError, match=r"grader.version.*deepscaler regrade"):
            evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


GREEDY = (
    "sampling.num_samples=1",
    "sampling.temperature=0",
    "sampling.max_completion_tokens=24",
    'suite.instruction=""',
)
CHAINS = describe({"chains": [Problem(f"c{i}", f"{i + 10} a+25 b*7", ("1",)) for i in range(12)]})


def test_server_and_embedded_engine_give_the_same_greedy_completions(tmp_path: Path, tiny: Path) -> None:
    one = ("engine.processes=1",)
    here = evaluate_model(tiny, job(tmp_path / "here", *GREEDY, *one, datasets=CHAINS))
    with served(tiny) as (address, _):
        there = evaluate_endpoint(address, "tiny", job(tmp_path / "there", *GREEDY, datasets=CHAINS))
    assert not [w for w in there.content["warnings"] if "ignores" in w]

    def bare(out: Path) -> list[tuple[Any, ...]]:
        rows = table(out)
        texts = [r["completion"].removeprefix("<think>\n").replace("\n</think>\n", "</think>") for r in rows]
        return [(t, r["num_tokens"], r["finish_reason"], r["outcome"]) for t, r in zip(texts, rows, strict=True)]

    assert bare(tmp_path / "here") == bare(tmp_path / "there")
    assert here.content["average"] == there.content["average"]
    assert all(r["token_ids"] for r in table(tmp_path / "here"))
    assert table(tmp_path / "there")[0]["token_ids"] is None


def test_the_budget_above_the_models_context_is_refused_before_the_weights_are_loaded(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"budget of 32768 tokens above the model's context.*--max-tokens \d+ or fewer"
    ):
        evaluate_model(tiny, job(tmp_path / "a", datasets=CHAINS))
    with served(tiny) as (address, _), pytest.raises(EndpointError, match="above the model's context"):
        evaluate_endpoint(address, "tiny", job(tmp_path / "b", datasets=CHAINS))


def test_all_five_benchmarks_go_the_whole_way_with_a_tiny_model(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepscaler.evaluation.tables import print_results

    datasets = load_suite(EvalRecipe().suite, shared("data", "benchmarks"))
    small = {name: sorted(ps, key=lambda p: len(p.prompt))[:60] for name, ps in datasets.sets.items()}
    settings = ("sampling.num_samples=1", "sampling.max_completion_tokens=8", "engine.processes=1")
    results = evaluate_model(tiny, job(tmp_path, *settings, datasets=describe(small)))
    assert list(results.content["benchmarks"]) == list(BENCHMARKS)
    assert len(table(tmp_path)) == sum(map(len, small.values()))
    print_results(results.content)
    out = capsys.readouterr().out
    assert all(name in out for name in BENCHMARKS) and "average" in out


def test_all_five_benchmarks_with_a_server_that_knows_the_solutions(tmp_path: Path) -> None:
    """1,560 problems; where the file has a worked solution that is given, else the reference in a box."""
    datasets = load_suite(EvalRecipe().suite, shared("data", "benchmarks"))
    everything = [p for ps in datasets.sets.values() for p in ps]
    known = {p.prompt: p for p in everything}
    instruction = EvalRecipe().suite.instruction

    def reply(question: str, seed: int) -> str:
        problem = known[question.removesuffix(f" {instruction}")]
        text = problem.solution or ""
        return text if "\\boxed" in text else f"{text} so \\boxed{{{problem.references[0]}}}"

    with ScriptedServer(Script(reply)) as server:
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=1", datasets=datasets))
    scores = {name: figure["pass@1"] for name, figure in results.content["benchmarks"].items()}
    assert len(table(tmp_path)) == len(everything) == 1560
    # Minerva: about 40 references contradict their own solution (RECIPE §5).
    assert scores.pop("minerva") > 0.8
    assert min(scores.values()) > 0.97, scores


@pytest.mark.parametrize("point", ["sample", "table"])
def test_a_full_disk_loses_no_finished_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    import pyarrow.parquet as pq

    written, write = 0, os.pwrite

    def full_journal(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += 1
        if written > 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    def full_table(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ScriptedServer(Script(REPLY)) as server:
        with monkeypatch.context() as patch:
            if point == "sample":
                patch.setattr(os, "pwrite", full_journal)
            else:
                patch.setattr(pq, "ParquetWriter", full_table)
            with pytest.raises(RunError, match=r"(disk is full|No space left).*run the same command again"):
                evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
        assert not (tmp_path / "results.json").exists()
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
    resumed = results.content["run"]["resumed_samples"]
    assert resumed == 160 if point == "table" else 0 < resumed <= 50


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
        assert code == 0 and f"{stored} of 120 samples are there already" in said
