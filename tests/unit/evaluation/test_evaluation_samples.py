"""The samples table: what is written comes back, and what does not fit is named by file, row and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.evaluation.samples import SCHEMA, read_results, read_samples, samples_table
from stored_samples import write_samples


def row(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "benchmark": "aime24",
        "problem_id": "p0",
        "sample_index": 0,
        "completion": r"\boxed{1}",
        "token_ids": [5, 6, 7],
        "num_tokens": 3,
        "finish_reason": "stop",
        "outcome": "correct",
        "reward": 1.0,
        "answer": "1",
        "detail": "same number",
        "seed": 2**40,
        "latency_s": 0.5,
        "references": ["1", "one"],
        "source": None,
        "difficulty": 3.5,
        "tolerance": None,
    }
    return {**values, **changes}


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = [row(), row(sample_index=1, token_ids=None, num_tokens=None, seed=None, latency_s=None, answer=None)]
    write_samples(samples_table(rows), tmp_path / "samples.parquet")
    table = read_samples(tmp_path)
    assert table.column_names == SCHEMA.names
    assert table.to_pylist() == rows
    assert [p.name for p in tmp_path.iterdir()] == ["samples.parquet"]


def test_texts_can_be_left_unread(tmp_path: Path) -> None:
    write_samples(samples_table([row()]), tmp_path / "samples.parquet")
    names = read_samples(tmp_path / "samples.parquet", texts=False).column_names
    assert set(SCHEMA.names) - set(names) == {"completion", "token_ids"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcome": "right"}, "row 1, field outcome: 'right'; expected one of correct"),
        ({"finish_reason": "eos"}, "row 1, field finish_reason: 'eos'"),
        ({"reward": 1.5}, r"row 1, field reward: 1.5; expected a number in \[0, 1\]"),
        ({"reward": float("nan")}, "row 1, field reward: nan"),
        ({"reward": 0.0}, "row 1, field reward: 0.0; only outcome correct earns reward"),
        ({"sample_index": -1}, "row 1, field sample_index: -1; expected 0 or more"),
        ({"num_tokens": 4}, "row 1, field num_tokens: 4; token_ids has another length"),
        ({"problem_id": None}, "row 1, field problem_id: no value"),
        ({"sample_index": 0}, "row 0, field sample_index: aime24/p0/0 appears more than once"),
        ({"sample_index": "first"}, "row 1, field sample_index: 'first'; expected int32"),
        ({"num_tokens": 2**40}, "row 1, field num_tokens: 1099511627776; expected int32"),
        ({"colour": "red"}, "row 1: unknown field colour"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^here, {message}"):
        samples_table([row(), row(**{"sample_index": 1, **changes})], "here")


def test_a_file_that_is_no_samples_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "samples.parquet"
    with pytest.raises(ValueError, match="does not exist"):
        read_samples(tmp_path)
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        read_samples(tmp_path)
    whole = samples_table([row()])
    pq.write_table(whole.drop_columns(["outcome"]), file)
    with pytest.raises(ValueError, match="no column outcome"):
        read_samples(tmp_path)
    wrong = whole.set_column(2, "sample_index", pa.array([0.0]))
    pq.write_table(wrong, file)
    with pytest.raises(ValueError, match="field sample_index: type double, expected int32"):
        read_samples(tmp_path)
    pq.write_table(whole.set_column(1, "problem_id", pa.array([None], pa.string())), file)
    with pytest.raises(ValueError, match=r"samples\.parquet, row 0, field problem_id: no value"):
        read_samples(tmp_path)


def test_an_unfinished_or_damaged_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished evaluation"):
        read_results(tmp_path)
    for damaged in ("{", "[]", '{"benchmarks": 3}'):
        (tmp_path / "results.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"results\.json: .* writes it again"):
            read_results(tmp_path)
