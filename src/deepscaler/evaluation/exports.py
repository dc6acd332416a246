"""Results in the formats of others: lm-evaluation-harness, lighteval, and the hub's .eval_results.

Written to be read by their tools; what their formats have no place for stays in our own files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepscaler.data.benchmarks.load import BENCHMARKS
from deepscaler.evaluation.benchmark_samples import BenchmarkSamples, split_benchmarks
from deepscaler.evaluation.results import read_consistent_results
from deepscaler.evaluation.samples import SCHEMA, model_name, open_samples, samples_file, setting
from deepscaler.observability.counts import counted
from deepscaler.observability.files import write_atomically
from deepscaler.observability.problem_texts import read_problem_texts

Prompts = Mapping[str, str]  # problem id -> the problem's text


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A finished evaluation and what exports need around it. date: ISO 8601 in UTC, without its Z."""

    directory: Path
    results: Mapping[str, Any]
    prompts: Prompts
    date: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.results.get("settings", {})

    @property
    def stamp(self) -> str:
        """The date as file names take it."""
        return self.date.replace(":", "-")

    def benchmarks(self) -> Iterator[BenchmarkSamples]:
        """One benchmark with all its texts in memory at a time."""
        file = samples_file(self.directory)
        open_samples(file)
        for name in self.results["benchmarks"]:
            table = pq.read_table(file, columns=SCHEMA.names, filters=[("benchmark", "=", name)])
            if not len(table):
                raise ValueError(f"{file} has no rows of {name}, which results.json lists; run `deepscaler regrade`")
            yield split_benchmarks(table)[0]


def export(kind: str, directory: Path, out: Path, *, prompts: Prompts | None = None, date: str) -> list[Path]:
    """Write the export named `kind` below `out`; returns the files. Raises ValueError for an unknown kind.

    prompts: instead of the texts that the evaluation kept in problems.jsonl.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown export {kind!r}; known are {', '.join(KINDS)}")
    results = read_consistent_results(directory)
    if not prompts:
        prompts = {identity: question.prompt for (_, identity), question in read_problem_texts(directory).items()}
    return KINDS[kind](Evaluated(directory, results, prompts, date), out)


def lm_eval(evaluated: Evaluated, out: Path) -> list[Path]:
    """`MODEL/results_DATE.json` and `MODEL/samples_TASK_DATE.jsonl` of lm-evaluation-harness 0.4.

    One line per problem, with all its samples in `resps`; exact_match is their mean, its standard error over problems.
    """
    settings = evaluated.settings
    model = model_name(settings) or str(evaluated.directory)
    folder = out / _file_name(model)
    content: dict[str, Any] = {"results": {}, "configs": {}, "versions": {}, "n-shot": {}, "higher_is_better": {}}
    content |= {"n-samples": {}, "config": {"model": "deepscaler", "model_args": f"model={model}"}, "task_hashes": {}}
    files = []
    for samples in evaluated.benchmarks():
        name, record = samples.name, evaluated.results["benchmarks"][samples.name]
        most = str(record["num_samples"])
        content["results"][name] = {
            "alias": name,
            "exact_match,none": record["pass@1"],
            "exact_match_stderr,none": "N/A" if record["se_problems"] is None else record["se_problems"],
            f"pass@{most},none": record["pass@k"][most],
        }
        content["configs"][name] = {
            "task": name,
            "output_type": "generate_until",
            "repeats": record["num_samples"],
            "generation_kwargs": _generation(settings),
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
        content["versions"][name], content["n-shot"][name] = 1, 0
        content["higher_is_better"][name] = {"exact_match": True}
        content["n-samples"][name] = {"original": record["num_problems"], "effective": record["num_problems"]}
        lines = [*_lm_eval_lines(samples, evaluated.prompts, settings)]
        hashes = "".join(line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in lines)
        content["task_hashes"][name] = _sha256(hashes)
        files.append(folder / f"samples_{_file_name(name)}_{evaluated.stamp}.jsonl")
        _write(files[-1], "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    content |= {"model_source": "deepscaler", "model_name": model, "model_name_sanitized": folder.name}
    content["date"] = evaluated.date
    results = folder / f"results_{evaluated.stamp}.json"
    _write(results, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return [results, *files]


def _lm_eval_lines(
    samples: BenchmarkSamples, prompts: Prompts, settings: Mapping[str, object]
) -> Iterator[dict[str, Any]]:
    for number, (identity, rows) in enumerate(_by_problem(samples)):
        doc = {"id": identity, "problem": prompts.get(identity), "answer": rows[0]["references"]}
        prompt, target = prompts.get(identity, ""), " or ".join(rows[0]["references"])
        yield {
            "doc_id": number,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": _generation(settings)}},
            "resps": [[row["completion"] for row in rows]],
            "filtered_resps": [[row["answer"] for row in rows]],
            "filter": "none",
            "metrics": ["exact_match"],
            "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _sha256(prompt),
            "target_hash": _sha256(target),
            "exact_match": sum(row["reward"] for row in rows) / len(rows),
        }


def _generation(settings: Mapping[str, object]) -> dict[str, object]:
    names = {"max_gen_toks": "max_completion_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}
    found = {theirs: setting(settings, ours) for theirs, ours in names.items()}
    return {"do_sample": found["temperature"] != 0, **{k: v for k, v in found.items() if v is not None}}


LIGHTEVAL_SCHEMA = pa.schema(
    [
        (
            "doc",
            pa.struct(
                [
                    ("id", pa.string()),
                    ("task_name", pa.string()),
                    ("query", pa.string()),
                    ("choices", pa.list_(pa.string())),
                    ("gold_index", pa.list_(pa.int64())),
                ]
            ),
        ),
        ("metric", pa.struct([("pass@1", pa.float64()), ("avg@n", pa.float64()), ("n", pa.int64())])),
        (
            "model_response",
            pa.struct(
                [
                    ("text", pa.list_(pa.string())),
                    ("output_tokens", pa.list_(pa.list_(pa.int32()))),
                    ("finish_reason", pa.list_(pa.string())),
                    ("extracted_answer", pa.list_(pa.string())),
                    ("score", pa.list_(pa.float32())),
                ]
            ),
        ),
    ]
)


def lighteval(evaluated: Evaluated, out: Path) -> list[Path]:
    """`details/MODEL/DATE/details_TASK_DATE.parquet`: one row per problem in the columns doc, metric, model_response.

    Like lighteval's since 0.13, with the fields a reader of completions needs; `finish_reason`, `extracted_answer` and
    `score` are ours.
    """
    model = model_name(evaluated.settings) or evaluated.directory.name
    owner, slash, name = model.partition("/")
    on_hub = bool(owner and slash and name) and "/" not in name  # there, as in lighteval, a folder of its owner
    place = Path(_file_name(owner), _file_name(name)) if on_hub else Path(_file_name(model))
    folder = out / "details" / place / evaluated.stamp
    files = []
    for samples in evaluated.benchmarks():
        rows = []
        for identity, group in _by_problem(samples):
            tokens = [row["token_ids"] for row in group]
            mean = sum(row["reward"] for row in group) / len(group)
            choices = group[0]["references"]
            rows.append(
                {
                    "doc": {
                        "id": identity,
                        "task_name": samples.name,
                        "query": evaluated.prompts.get(identity),
                        "choices": choices,
                        "gold_index": list(range(len(choices))),
                    },
                    "metric": {"pass@1": mean, "avg@n": mean, "n": len(group)},
                    "model_response": {
                        "text": [row["completion"] for row in group],
                        "output_tokens": None if None in tokens else tokens,
                        "finish_reason": [row["finish_reason"] for row in group],
                        "extracted_answer": [row["answer"] for row in group],
                        "score": [row["reward"] for row in group],
                    },
                }
            )
        files.append(folder / f"details_{_file_name(samples.name)}_{evaluated.stamp}.parquet")
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(rows, schema=LIGHTEVAL_SCHEMA)
        write_atomically(files[-1], lambda part, table=table: pq.write_table(table, part, compression="zstd"))
    return files


def hub(evaluated: Evaluated, out: Path) -> list[Path]:
    """`.eval_results/TASK.yaml` per benchmark, to be committed to the model's repository on the hub.

    Raises ValueError for a benchmark whose hub dataset the registry does not know.
    """
    files = []
    for name, record in evaluated.results["benchmarks"].items():
        if name not in BENCHMARKS:
            raise ValueError(
                f"{name} is no registered benchmark ({', '.join(BENCHMARKS)}), so its dataset on the hub is unknown; "
                "write its .eval_results file by hand from results.json"
            )
        source = BENCHMARKS[name].hub
        asked = evaluated.settings.get("datasets", {}).get(name, {})
        commit = asked.get("revision")  # problems from a file are of no commit of the hub's
        notes = _notes(record, evaluated.settings)
        if commit is None and asked.get("file_sha256"):
            notes += f"; problems from a file with SHA-256 {asked['file_sha256']}"
        lines = [
            "- dataset:",
            f"    id: {json.dumps(source.dataset)}",
            f"    task_id: {json.dumps(source.config or 'default')}",
            *([f"    revision: {json.dumps(commit)}"] if commit else []),
            f"  value: {100 * record['pass@1']:.2f}",
            f"  date: {json.dumps(evaluated.date + 'Z')}",
            f"  notes: {json.dumps(notes)}",
        ]
        files.append(out / ".eval_results" / f"{name}.yaml")
        _write(files[-1], "\n".join(lines) + "\n")
    return files


def _notes(record: Mapping[str, Any], settings: Mapping[str, object]) -> str:
    parts = [
        f"Pass@1 in percent, mean of {counted(record['num_samples'], 'sample')} on "
        f"{counted(record['num_problems'], 'problem')}"
    ]
    parts.append(f"95% interval over problems {100 * record['low']:.1f} to {100 * record['high']:.1f}")
    for name, words in (("temperature", "T={}"), ("top_p", "top_p={}"), ("max_completion_tokens", "{} tokens")):
        value = setting(settings, name)
        parts += [words.format(value)] if value is not None else []
    return "; ".join(parts)


def _by_problem(samples: BenchmarkSamples) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    rows = samples.table.to_pylist()
    start = 0
    for identity, count in zip(samples.problem_ids, samples.sample_counts.tolist(), strict=True):
        yield identity, rows[start : start + count]
        start += count


def _file_name(name: str) -> str:
    """As the harness names files; nothing in it leads out of the folder."""
    return re.sub(r"[\"<>:/|\\?*\[\]\0]+", "__", name).lstrip(".") or "unnamed"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


KINDS: dict[str, Callable[[Evaluated, Path], list[Path]]] = {"lm-eval": lm_eval, "lighteval": lighteval, "hf": hub}
