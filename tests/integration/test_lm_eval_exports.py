"""Our lm-eval export, read by lm-evaluation-harness's own code: file names, hashes, aggregation, its table.

Needs lm-eval, as test_lm_eval_agreement.py does: `make test-lm-eval`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from deepscaler.evaluation.exports import export
from deepscaler.evaluation.samples import read_results
from lm_eval_environment import lm_eval_python
from made_comparison import write_evaluation_of
from made_samples import made_rows

READER = """
import glob, json, sys
from lm_eval import utils
from lm_eval.api.metrics import mean, mean_stderr
files = [f for f in glob.glob(sys.argv[1] + "/**", recursive=True) if ".json" in f]
results_file = utils.get_latest_filename(utils.get_results_filenames(files))
results = json.load(open(results_file))
found = {"table": utils.make_table(results), "folder": results_file.split("/")[-2], "tasks": {}}
found["sanitized"] = utils.sanitize_model_name(results["model_name"])
for file in utils.get_sample_results_filenames(files):
    name = file.split("/")[-1]
    samples = [json.loads(line) for line in open(file)]
    for s in samples:
        doc = json.dumps(s["doc"], indent=2, default=utils.handle_non_serializable, ensure_ascii=False)
        assert s["doc_hash"] == utils.hash_string(doc)
        assert s["prompt_hash"] == utils.hash_string(s["arguments"]["gen_args_0"]["arg_0"])
        assert s["target_hash"] == utils.hash_string(str(s["target"]))
        assert len(s["resps"][0]) == results["configs"][utils.get_file_task_name(name)]["repeats"]
    hashes = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
    scores = [s["exact_match"] for s in samples]
    found["tasks"][utils.get_file_task_name(name)] = {
        "mean": mean(scores), "stderr": mean_stderr(scores), "date": utils.get_file_datetime(name),
        "hashes": utils.hash_string(hashes) == results["task_hashes"][utils.get_file_task_name(name)],
    }
print(json.dumps(found))
"""


def test_the_harness_reads_its_own_format_in_our_files(tmp_path: Path) -> None:
    python = lm_eval_python()
    rows = [*made_rows(30, 4, rate=0.4, seed=1, benchmark="aime24"), *made_rows(12, 4, rate=0.6, seed=2)]
    directory = write_evaluation_of(tmp_path / "eval", rows, model={"name": "org/model"})
    export("lm-eval", directory, tmp_path / "out", prompts={"p0": "Was heißt $x^2$?"}, date="2026-01-02T03:04:05")
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    command = [python, "-c", READER, str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, env=offline)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["folder"] == found["sanitized"] == "org__model"
    ours = read_results(directory)["benchmarks"]
    assert set(found["tasks"]) == set(ours) == {"aime24", "made"}
    for name, theirs in found["tasks"].items():
        assert theirs["date"] == "2026-01-02T03-04-05" and theirs["hashes"] is True
        assert theirs["mean"] == pytest.approx(ours[name]["pass@1"])
        assert theirs["stderr"] == pytest.approx(ours[name]["se_problems"])
        assert f"{ours[name]['pass@1']:.4f}" in found["table"]
    assert "pass@4" in found["table"] and "exact_match" in found["table"]
