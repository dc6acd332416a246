"""JSON of others: whatever is wrong with it is a ValueError, in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import deepscaler
from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.client import ChatRequest, OpenAIClient
from deepscaler.engines.openai.reply import MalformedReplyError, StreamedReply, error_message, parse_reply
from deepscaler.evaluation.breakdown import read_contamination
from deepscaler.evaluation.samples import read_results
from deepscaler.json_text import MAX_DEPTH, parse_json
from deepscaler.observability.problem_texts import read_problem_texts
from deepscaler.observability.run_directory import read_json, read_metrics
from deepscaler.types import SamplingParams
from scripted_server import ScriptedServer
from server_script import Faults, Script

DEEP = "[" * 200_000 + "]" * 200_000
# Written by ourselves, with a checksum or in our own wheel.
OURS = {
    "json_text.py",
    "evaluation/journal.py",
    "rewards/isolation/worker.py",
    "rewards/functions/supervisor.py",
    "rewards/functions/worker.py",
    "data/benchmarks/review.py",
    "engines/vllm_shared/in_server/deepscaler_vllm/extension.py",  # the manifest of published weights
}


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 200_000 + "1" + "}" * 200_000, "[" * 501 + "]" * 501, "[" * 200_000])
def test_too_deep_nesting_is_a_value_error(text: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=r"nested more than 500 levels deep|Expecting"):
            parse_json(form)


def test_everything_else_is_read_as_by_the_standard_library() -> None:
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(nested) and parse_json('{"a": [1, 2.5, null, "\\u00e9"]}') == {"a": [1, 2.5, None, "é"]}
    assert len(parse_json(f"[{','.join(['[[]]'] * 5000)}]")) == 5000  # wide is not deep
    assert parse_json("1", parse_int=str) == "1"


def test_nobody_else_parses_text_of_others() -> None:
    root = Path(deepscaler.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and ast.unparse(node.value) == "json":
                found.add(str(file.relative_to(root)))
    assert found == OURS


def test_replies_nested_too_deep_are_malformed() -> None:
    with pytest.raises(MalformedReplyError, match="levels deep"):
        parse_reply(DEEP.encode())
    with pytest.raises(MalformedReplyError, match="levels deep"):
        StreamedReply().feed(f"data: {DEEP}\n".encode())
    assert error_message(DEEP.encode()).startswith("[[[")


def test_a_server_that_answers_nonsense_once_is_asked_again() -> None:
    with ScriptedServer(Script(lambda q, s: q, faults=Faults(deep=0.2))) as server:
        section = ClientSection(concurrency=4, backoff_s=0.001)
        client = OpenAIClient(server.url, "scripted", SamplingParams(100), section)
        assert len(list(client.complete([ChatRequest(i, f"question {i}", i) for i in range(40)]))) == 40
        assert client.faults["malformed"] == server.planted["deep"] > 0


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("results.json", "problems.jsonl", "contamination.json", "metrics.jsonl"):
        (tmp_path / name).write_text(DEEP + "\n")
    with pytest.raises(ValueError, match=r"results\.json.*levels deep"):
        read_results(tmp_path)
    with pytest.raises(ValueError, match=r"problems\.jsonl, row 0.*levels deep"):
        read_problem_texts(tmp_path)
    with pytest.raises(ValueError, match=r"contamination\.json.*levels deep"):
        read_contamination(tmp_path / "contamination.json")
    with pytest.raises(ValueError, match=r"results\.json is damaged.*levels deep"):
        read_json(tmp_path / "results.json")
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("count", ["1e30", str(10**30), str(2**31), "-1", "true", '"7"', "null"])
def test_a_token_count_that_no_completion_can_have_is_unknown(count: str) -> None:
    body = '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": %s}}' % count  # noqa: UP031
    assert parse_reply(body.encode()).num_tokens is None
    assert parse_reply(body.replace(count, str(2**31 - 1)).encode()).num_tokens == 2**31 - 1
