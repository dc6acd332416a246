"""EleutherAI's lm-evaluation-harness, pointed at our server, measures what our evaluator measures.

Needs lm-eval, which is heavy: `make test-lm-eval` makes an environment for it. LM_EVAL_PYTHON names its interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
from io import StringIO
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from deepscaler.config.evaluation import load_evaluation
from deepscaler.data.templates import render_prompt
from deepscaler.evaluation.datasets import describe
from deepscaler.evaluation.samples import read_samples
from deepscaler.loop.evaluate import Job, evaluate_endpoint
from deepscaler.loop.progress import Progress
from deepscaler.modeling.load import load_tokenizer
from deepscaler.types import Problem
from lm_eval_environment import lm_eval_python
from served_model import served
from tiny_run import write_model

NUM_PROBLEMS = 24
TASK = """
task: chains
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{problem}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["@"], max_gen_toks: 24, temperature: 0, do_sample: false}}
filter_list:
  - name: boxed
    filter: [{{function: regex, regex_pattern: "boxed\\\\{{([^}}]*)\\\\}}"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""

CHOICES = """
task: choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{problem}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def problems() -> list[Problem]:
    return [Problem(f"c{i}", f"{i + 10} a+25", (f"{(i + 35) % 100:02d}",)) for i in range(NUM_PROBLEMS)]


def write_half_right_model(directory: Path) -> Path:
    """A tiny model that has learnt its answers by heart: right ones for two problems of three."""
    write_model(directory)
    tokenizer = load_tokenizer(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    rows = []
    for index, problem in enumerate(problems()):
        answer = problem.references[0] if index % 3 else "00"
        prompt, _ = render_prompt(tokenizer, problem.prompt)
        reply = tokenizer(f"so</think>\\boxed{{{answer}}}", add_special_tokens=False)["input_ids"]
        rows.append((list(prompt), [*reply, tokenizer.eos_token_id]))
    width = max(len(p) + len(r) for p, r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for row, (prompt, reply) in enumerate(rows):
        ids[row, : len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
        labels[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    return directory


def test_the_harness_agrees_on_the_same_greedy_completions(tmp_path: Path) -> None:
    python = lm_eval_python()
    model = write_half_right_model(tmp_path / "model")
    data = tmp_path / "chains.jsonl"
    lines = [json.dumps({"problem": p.prompt, "answer": p.references[0]}) for p in problems()]
    data.write_text("\n".join(lines) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "chains.yaml").write_text(TASK.format(data=data))
    recipe = load_evaluation(
        None,
        [
            "sampling.num_samples=1",
            "sampling.temperature=0",
            "sampling.max_completion_tokens=24",
            'suite.instruction=""',
        ],
    )
    with served(model) as (address, _):
        job = Job(recipe, describe({"chains": problems()}), tmp_path / "eval", Progress(StringIO(), terminal=False))
        ours = evaluate_endpoint(address, "tiny", job)
        command = [
            python, "-m", "lm_eval", "--model", "local-chat-completions",
            "--model_args", f"model=tiny,base_url={address}/chat/completions,num_concurrent=4,max_retries=2",
            "--tasks", "chains", "--include_path", str(tmp_path / "tasks"), "--apply_chat_template",
            "--output_path", str(tmp_path / "theirs"), "--log_samples",
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none"}
        ended = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, **offline})
        assert ended.returncode == 0, ended.stderr[-3000:]
    (results,) = (tmp_path / "theirs").rglob("results_*.json")
    accuracy = json.loads(results.read_text())["results"]["chains"]["exact_match,boxed"]
    assert accuracy == pytest.approx(ours.average.mean) and 0.5 < accuracy < 0.8
    # Not only the same share: the same problems.
    (logged,) = (tmp_path / "theirs").rglob("samples_*.jsonl")
    theirs = {row["doc"]["problem"]: row["exact_match"] for row in map(json.loads, logged.read_text().splitlines())}
    rows = read_samples(tmp_path / "eval").to_pylist()
    prompts = {p.id: p.prompt for p in problems()}
    assert {prompts[row["problem_id"]]: row["reward"] for row in rows} == theirs


def test_the_harness_reads_our_loglikelihoods(tmp_path: Path) -> None:
    """Tasks with answers to choose from: sums of log-probabilities, batched prompts of ids, likeliest or not."""
    python = lm_eval_python()
    model = write_half_right_model(tmp_path / "model")
    docs = [
        {"problem": f"<user>{p.prompt}<assistant><think>", "choices": [f"so</think>\\boxed{{{a}}}" for a in answers]}
        for index, p in enumerate(problems())
        for answers in [[p.references[0], "00", f"{index:02d}"]]
    ]
    data = tmp_path / "choices.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choices.yaml").write_text(CHOICES.format(data=data))
    with served(model) as (address, _):
        command = [
            python, "-m", "lm_eval", "--model", "local-completions", "--batch_size", "5",
            "--model_args", f"model=tiny,base_url={address}/completions,tokenizer={model},max_retries=2",
            "--tasks", "choices", "--include_path", str(tmp_path / "tasks"),
            "--output_path", str(tmp_path / "theirs"), "--log_samples",
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": "none"}
        ended = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, **offline})
        assert ended.returncode == 0, ended.stderr[-3000:]
    (logged,) = (tmp_path / "theirs").rglob("samples_*.jsonl")
    rows = sorted(map(json.loads, logged.read_text().splitlines()), key=lambda row: row["doc_id"])
    expected = [[_loglikelihood(model, doc["problem"], choice) for choice in doc["choices"]] for doc in docs]
    for row, wanted in zip(rows, expected, strict=True):
        found = [(float(total), greedy == "True") for ((total, greedy),) in row["resps"]]
        for (total, greedy), (true_total, true_greedy) in zip(found, wanted, strict=True):
            assert total == pytest.approx(true_total, abs=1e-3) and greedy == true_greedy
    (results,) = (tmp_path / "theirs").rglob("results_*.json")
    accuracy = json.loads(results.read_text())["results"]["choices"]["acc,none"]
    assert accuracy == pytest.approx(sum(max(w)[0] == w[0][0] for w in expected) / len(docs))
    assert 0.5 < accuracy < 0.8


def _loglikelihood(model: Path, context: str, continuation: str) -> tuple[float, bool]:
    tokenizer, weights = load_tokenizer(model), AutoModelForCausalLM.from_pretrained(model)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, continuation))
    with torch.no_grad():
        logprobs = torch.log_softmax(weights(torch.tensor([before + after])).logits[0, len(before) - 1 : -1], -1)
    return float(logprobs[range(len(after)), after].sum()), logprobs.argmax(-1).tolist() == after
