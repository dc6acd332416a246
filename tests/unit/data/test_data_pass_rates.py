"""Pass rates as columns, and the bands that choose by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.sections.data import DataSection
from deepscaler.data.pass_rates import histogram, in_band, pass_rate_columns, wilson_interval
from deepscaler.data.sources.load import load_problems
from deepscaler.data.sources.readers import DataError
from deepscaler.types import Problem


def problems(*rates: float | None) -> list[Problem]:
    return [Problem(str(i), "1+1?", ("2",), pass_rate=rate) for i, rate in enumerate(rates)]


def section(**bounds: float) -> DataSection:
    return DataSection(source="mine.jsonl", **bounds)  # type: ignore[arg-type]


def test_the_interval_is_wilsons() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998, method 3
    low, high = wilson_interval(0, 8)
    assert low == 0.0 and high == pytest.approx(0.3244, abs=1e-4)
    assert pass_rate_columns(0, 0)["pass_rate"] is None
    assert pass_rate_columns(2, 8) == {
        "pass_rate": 0.25, "pass_rate_low": 0.0715, "pass_rate_high": 0.5907, "pass_rate_samples": 8,
    }  # fmt: skip


def test_a_band_keeps_its_ends_and_leaves_out_what_was_not_scored() -> None:
    found = problems(0.0, 0.25, 0.5, 1.0, None)
    assert in_band(found, section()) == [True] * 5
    assert in_band(found, section(min_pass_rate=0.25)) == [False, True, True, True, False]
    assert in_band(found, section(min_pass_rate=0.25, max_pass_rate=0.5)) == [False, True, True, False, False]
    assert in_band(found, section(max_pass_rate=0.0)) == [True, False, False, False, False]


def test_a_band_that_no_problem_meets_shows_where_they_are() -> None:
    with pytest.raises(ValueError, match=r"no problem of mine.jsonl .* from 0.4 to 0.6") as error:
        in_band(problems(0.0, 0.0, 0.125, 1.0), section(min_pass_rate=0.4, max_pass_rate=0.6))
    lines = str(error.value).splitlines()[1:]
    assert [line.split()[:2] for line in lines if "#" in line] == [["0", "2"], ["up", "to"], ["1", "1"]]
    with pytest.raises(ValueError, match="deepscaler data score"):
        in_band(problems(None, None), section(min_pass_rate=0.4))


def test_every_rate_is_in_one_line_of_the_distribution() -> None:
    rates = [i / 16 for i in range(17)]
    lines = histogram(rates)
    assert len(lines) == 12 and sum(int(line.split("#")[0].split()[-1]) for line in lines) == 17
    assert lines[0].split() == ["0", "1", "#" * 15] and lines[-1].split()[:2] == ["1", "1"]


@pytest.mark.parametrize("value", [1.5, -0.1, "often", True, [0.5]])
def test_a_pass_rate_that_is_no_share_is_refused_by_row(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"problem": "1+1?", "answer": "2", "pass_rate": 0.5},
        {"problem": "2+2?", "answer": "4", "pass_rate": value},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"mine.jsonl, row 1, field 'pass_rate'"):
        load_problems(path)
