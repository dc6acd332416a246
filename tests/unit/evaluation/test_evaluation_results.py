"""results.json from made-up completions whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepscaler.evaluation.benchmark_samples import split_benchmarks
from deepscaler.evaluation.breakdown import budget_curve, read_contamination
from deepscaler.evaluation.results import add_clean_subset, compute_results, find_changed_samples, write_results
from deepscaler.evaluation.samples import read_digested, read_results, samples_table
from deepscaler.evaluation.tables import print_results
from made_comparison import write_evaluation_of
from made_samples import made_rows, row
from stored_samples import write_samples


def record(rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    content = compute_results(samples_table(rows), {"temperature": 0.6}, **options).content
    json.dumps(content, allow_nan=False)
    return content["benchmarks"]["made"]


def test_shares_lengths_and_rates_by_hand() -> None:
    rows = [
        row(0, 0, outcome="correct", num_tokens=10, answer="1"),
        row(0, 1, outcome="wrong", num_tokens=30, answer="2"),
        row(1, 0, outcome="no_answer", num_tokens=20, answer=None),
        row(1, 1, outcome="truncated", num_tokens=40, answer=None, finish_reason="length"),
        row(2, 0, outcome="correct", num_tokens=10, answer="1"),
        row(2, 1, outcome="timeout", num_tokens=10, answer="3"),
    ]
    made = record(rows)
    assert made["pass@1"] == pytest.approx(1 / 3)
    assert made["pass@k"] == {"1": pytest.approx(1 / 3), "2": pytest.approx(2 / 3)}
    assert made["all_correct@k"] == {"1": pytest.approx(1 / 3), "2": 0.0}
    assert made["maj@k"] == {"1": pytest.approx(1 / 3), "2": pytest.approx(1 / 3)}
    assert (made["num_problems"], made["num_samples"], made["num_completions"]) == (3, 2, 6)
    shares = [made[f"{name}_frac"] for name in ("truncated", "no_answer", "timeout", "identical")]
    assert shares == pytest.approx([1 / 6, 1 / 6, 1 / 6, 0.0])
    assert made["outcomes"]["timeout"] == 1
    assert made["tokens"]["mean"] == made["length_mean"] == 20
    assert (made["tokens"]["total"], made["tokens"]["median"], made["tokens"]["max"]) == (120, 15, 40)
    assert made["tokens"]["correct"]["mean"] == 10
    assert made["tokens"]["wrong"]["mean"] == 25
    assert any("1 of 6 completions were not graded in time" in w for w in made["warnings"])


def test_a_smaller_budget_cuts_and_never_helps() -> None:
    samples = split_benchmarks(samples_table(made_rows(40, 8, rate=0.5, seed=1)))[0]
    curve = budget_curve(samples)
    assert curve is not None
    scores = [point["pass@1"] for point in curve]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1] == pytest.approx(samples.means.mean())
    assert curve[-1]["truncated_frac"] == 0.0
    tokens, right = np.array(samples.column("num_tokens")), samples.rewards > 0
    b = curve[2]["max_tokens"]
    assert curve[2]["pass@1"] == pytest.approx(np.mean(right & (tokens <= b)))  # exactly b tokens still count


def test_unknown_token_counts_stay_unknown() -> None:
    made = record([row(0, 0, outcome="correct", num_tokens=None), row(1, 0, outcome="wrong", num_tokens=5)])
    assert made["tokens"] is made["budgets"] is made["length_mean"] is None


def test_groups_by_difficulty_and_source() -> None:
    rows = [
        row(0, 0, outcome="correct", difficulty=2.0, source="algebra"),
        row(1, 0, outcome="wrong", difficulty=10.0, source="algebra"),
        row(2, 0, outcome="correct", difficulty=2.0, source="geometry"),
    ]
    made = record(rows)
    assert [(g["name"], g["pass@1"], g["num_problems"]) for g in made["by_difficulty"]] == [("2", 1, 2), ("10", 0, 1)]
    assert [(g["name"], g["pass@1"]) for g in made["by_source"]] == [("algebra", 0.5), ("geometry", 1.0)]
    assert record([row(0, 0, outcome="wrong")])["by_source"] == []


def test_many_difficulties_are_grouped_by_whole_numbers() -> None:
    made = record([row(i, 0, outcome="wrong", difficulty=i / 10) for i in range(30)])
    assert [(g["name"], g["num_problems"]) for g in made["by_difficulty"]] == [("0", 10), ("1", 10), ("2", 10)]


def test_repeated_completions_betray_the_sampler() -> None:
    rows = [row(p, s, outcome="wrong", completion=f"problem {p}", num_tokens=300) for p in range(4) for s in range(4)]
    made = record(rows)
    assert made["identical_frac"] == 12 / 16
    assert any("sampler fault" in w for w in made["warnings"])
    greedy = compute_results(samples_table(rows), {"temperature": 0}).content["benchmarks"]["made"]
    assert not any("sampler fault" in w for w in greedy["warnings"])
    same_elsewhere = [row(p, 0, outcome="wrong", completion="the same", num_tokens=300) for p in range(4)]
    assert record(same_elsewhere)["identical_frac"] == 0.0


def test_the_clean_subset_leaves_contaminated_problems_out(tmp_path: Path) -> None:
    rows = [row(p, 0, outcome="correct" if p < 2 else "wrong") for p in range(5)]
    directory = write_evaluation_of(tmp_path / "eval", rows)
    before = read_results(directory)
    file = tmp_path / "contamination.json"
    for content in ({"matches": {"made": ["p0", "p4"]}}, {"benchmarks": {"made": {"problems": ["p0", "p4"]}}}):
        file.write_text(json.dumps(content))
        returned = add_clean_subset(directory, file)
        clean = returned["benchmarks"]["made"]["clean"]
        assert (clean["num_contaminated"], clean["num_problems"]) == (2, 3)
        assert clean["pass@1"] == pytest.approx(1 / 3)
        assert read_results(directory) == json.loads(json.dumps(returned))
    assert returned["contamination"]["file"] == "contamination.json"
    assert returned["benchmarks"]["made"]["pass@1"] == before["benchmarks"]["made"]["pass@1"]
    file.write_text(json.dumps({"matches": {"made": [f"p{i}" for i in range(5)]}}))
    assert "pass@1" not in add_clean_subset(directory, file)["benchmarks"]["made"]["clean"]
    file.write_text(json.dumps({"matches": {"other": ["p0"]}}))
    with pytest.raises(ValueError, match="names other, the evaluation holds made"):
        add_clean_subset(directory, file)


@pytest.mark.parametrize("text", ["{", "[]", '{"matches": {"made": "p0"}}', '{"benchmarks": {"made": {}}}'])
def test_a_damaged_contamination_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "contamination.json").write_text(text)
    with pytest.raises(ValueError, match=r"contamination\.json"):
        read_contamination(tmp_path / "contamination.json")


def test_missing_samples_are_said_and_every_problem_weighs_the_same() -> None:
    rows = [row(0, s, outcome="correct") for s in range(4)] + [row(1, 0, outcome="wrong")]
    made = record(rows)
    assert made["pass@1"] == 0.5
    assert (made["num_samples"], list(made["pass@k"])) == (1, ["1"])
    assert any("1 to 4 samples" in w for w in made["warnings"])


def test_votes_use_the_graders_equality() -> None:
    """1/2, 0.5 and \\frac12 are one wrong answer, and outvote the right one."""
    answers = [("wrong", "1/2"), ("wrong", "0.5"), ("wrong", "\\frac12"), ("correct", "3"), ("correct", "3")]
    made = record([row(0, i, outcome=o, answer=a) for i, (o, a) in enumerate(answers)])
    assert made["maj@k"]["5"] == 0.0


def test_texts_need_not_be_in_memory(tmp_path: Path) -> None:
    table = samples_table(made_rows(6, 4, rate=0.4, seed=2))
    write_samples(table, tmp_path / "samples.parquet")
    from_file = compute_results(read_digested(tmp_path), {})
    assert from_file.content == compute_results(table, {}).content
    write_results(from_file, tmp_path)
    assert json.loads(json.dumps(from_file.content)).items() <= read_results(tmp_path).items()
    assert find_changed_samples(tmp_path) is None
    (tmp_path / "samples.parquet").write_bytes(b"other")
    assert find_changed_samples(tmp_path) == "samples.parquet differs from its checksum"


def test_order_of_rows_changes_nothing() -> None:
    rows = made_rows(6, 4, rate=0.4, seed=3)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    first, second = record(rows), record(shuffled)
    assert first == second


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        compute_results(samples_table([]), {})


def test_the_table_names_warnings_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(p, s, outcome="no_answer", answer=None, benchmark="olympiadbench") for p in range(3) for s in range(16)]
    (tmp_path / "contamination.json").write_text(json.dumps({"matches": {"olympiadbench": ["p0"]}}))
    directory = write_evaluation_of(tmp_path / "eval", rows)
    print_results(add_clean_subset(directory, tmp_path / "contamination.json"))
    out = capsys.readouterr().out
    assert max(map(len, (line.rstrip() for line in out.splitlines()))) <= 80
    assert "maj@16" in out
    assert "check chat template" in out
    assert "on the 2 problems" in out


@pytest.mark.parametrize("tokens", [None, 20])
def test_identical_completions_are_noticed_whatever_their_length(tokens: int | None) -> None:
    rows = [row(p, s, completion=f"problem {p}", num_tokens=tokens) for p in range(4) for s in range(4)]
    made = record(rows)
    assert any("all samples of every problem are the same text" in w for w in made["warnings"])
    assert made["se_resampling"] is None and made["low_resampling"] is None  # not 0: nothing was drawn again
    assert compute_results(samples_table(rows), {}).content["average"]["se_resampling"] is None
    greedy = compute_results(samples_table(rows), {"temperature": 0.0}).content["benchmarks"]["made"]
    assert greedy["warnings"] == [] and greedy["se_resampling"] == 0.0
    mostly = [{**r, "completion": f"own {i}" if i < 2 else "same"} for i, r in enumerate(rows[:4] * 10)]
    mostly = [{**r, "problem_id": "p0", "sample_index": i} for i, r in enumerate(mostly)]
    assert any("37 of 40 completions repeat another" in w for w in record(mostly)["warnings"])
    other = [row(p, s, num_tokens=tokens) for p in range(4) for s in range(4)]
    assert record(other)["warnings"] == []


def test_rows_counted_twice_are_not_called_missing() -> None:
    once = [row(p, s) for p in range(6) for s in range(4)]
    twice = [*once, *({**r, "sample_index": r["sample_index"] + 4} for r in once[:8])]
    (words,) = record(twice)["warnings"]
    assert words == "problems have 4 to 8 samples, most of them 4: were rows of 2 problems counted twice?"
    whole = [*once, *({**r, "sample_index": r["sample_index"] + 4} for r in once)]
    (words,) = record(whole)["warnings"]
    assert words == "every completion is there at least 2 times word for word: rows counted twice?"
    (words,) = record(once[:-1])["warnings"]
    assert words == "problems have 3 to 4 samples, most of them 4: completions of 1 problem are missing"


def test_boxes_inside_the_thoughts_explain_answers_that_are_missing() -> None:
    def unanswered(text: str) -> list[dict[str, Any]]:
        return [row(p, 0, outcome="no_answer", answer=None, completion=f"{text} {p}") for p in range(3)]

    said = "all 3 completions without an answer: a \\boxed{} inside the thoughts"
    assert any(said in w for w in record(unanswered("<think> so \\boxed{1} </think> done"))["warnings"])
    template = {"template": {"thinking_prefilled": True}}
    opened = compute_results(samples_table(unanswered("so \\boxed{1}")), template).content["benchmarks"]["made"]
    assert any(said in w for w in opened["warnings"])
    assert not any("thoughts" in w for w in record(unanswered("so \\boxed{"))["warnings"])  # never closed
    assert not any("thoughts" in w for w in record(unanswered("<think> so </think> \\boxed{"))["warnings"])
    mixed = [*unanswered("<think> so \\boxed{1}"), row(3, 0, outcome="no_answer", answer=None, completion="hm")]
    assert not any("thoughts" in w for w in record(mixed)["warnings"])
