"""The page of a comparison: whole, closed to the network and to model text, small however many problems there are."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepscaler.observability.problem_texts import Question
from deepscaler.report import write_comparison_page
from deepscaler.report.comparison_page import (
    MAX_LISTED,
    SAMPLES_SHOWN,
    Change,
    changed_problems,
    choose_samples,
    shown_per_set,
)
from deepscaler.report.forest import ForestRow, forest_svg
from made_comparison import write_made_comparison
from synthetic_run import HOSTILE_TEXTS


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_made_comparison(tmp_path_factory.mktemp("comparison")).read_text()


def test_every_section_is_there_and_every_link_leads_somewhere(html: str) -> None:
    page = Page(html)
    ids = {a.get("id") for _, a in page.tags}
    assert {"result", "differences", "published", "problems", "completions"} <= ids
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert all(link and link[1:] in ids for link in links)
    assert sum(bool(link and link.startswith("#problem-")) for link in links) == sum(
        t == "article" for t, _ in page.tags
    )
    assert page.text.count("DeepScaleR-1.5B-Preview") >= 1
    assert "Not measured here" in page.text


def test_nothing_runs_and_nothing_is_loaded(html: str) -> None:
    page = Page(html)
    assert not any(tag in ("script", "img", "iframe", "object") for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy and "script-src 'none'" in policy


def test_model_text_is_shown_as_text(html: str) -> None:
    text = Page(html).text
    for hostile in HOSTILE_TEXTS:
        assert hostile.strip() in text
    assert "characters left out" in text


def test_every_changed_problem_says_what_was_asked_and_what_is_right(html: str) -> None:
    page = Page(html)
    unfolded = sum(tag == "details" and a.get("class") == "question" for tag, a in page.tags)
    listed = sum(a.get("class") == "about" for _, a in page.tags)
    assert listed > unfolded > 0 and html.count('class="question"') == listed
    assert page.text.count("reference ") >= listed
    assert "which these two did not keep" not in page.text
    short = Change("b", "p", 0.0, 1.0, "", Question("What is\n1 + 1?", ("2",)))
    assert short.beginning == "What is 1 + 1?" and not short.is_long
    long = Change("b", "p", 0.0, 1.0, "", Question("x " * 4000, ("2",)))
    assert long.is_long and len(long.beginning) < 170 and len(long.prompt) < 1700


def test_evaluations_without_texts_are_compared_all_the_same(tmp_path: Path) -> None:
    write_made_comparison(tmp_path, names=["aime24"])
    before, after = (tmp_path / letter / "samples.parquet" for letter in "ab")
    for file in (before, after):
        (file.parent / "problems.jsonl").unlink()
    page = write_comparison_page(
        tmp_path / "out" / "comparison.json", before, after, tmp_path / "page.html"
    ).read_text()
    assert "which these two did not keep" in page and 'class="question"' not in page


def test_rows_and_texts_are_limited_and_the_limits_are_said() -> None:
    problems = [[f"p{i}", 0.0, (i % 997) / 997] for i in range(5000)]
    changes = changed_problems({"big": {"problems": problems}, "small": {"problems": [["q", 0.5, 0.5]]}})
    big = changes["big"]
    assert len(big) == sum(row[2] > 0 for row in problems) > MAX_LISTED
    assert [abs(c.after - c.before) for c in big] == sorted((abs(c.after - c.before) for c in big), reverse=True)
    assert [bool(c.anchor) for c in big].index(False) == shown_per_set(2)
    assert changes["small"] == []


def test_a_page_of_many_problems_stays_small(tmp_path: Path) -> None:
    page = write_made_comparison(tmp_path, names=["math500"], problems=700)
    assert page.stat().st_size < 4_000_000
    text = page.read_text()
    assert f"{MAX_LISTED} listed" in text
    assert text.count("<article") == shown_per_set(1)


def test_rare_verdicts_are_shown_before_common_ones() -> None:
    rows = [{"outcome": "wrong", "sample_index": i} for i in range(10)]
    rows[7] = {"outcome": "correct", "sample_index": 7}
    assert [r["sample_index"] for r in choose_samples(rows)] == [0, 1, 7]
    assert len(choose_samples(rows)) == SAMPLES_SHOWN


def test_marks_of_the_forest_stay_in_the_drawing() -> None:
    rows = [ForestRow("<b>", 0.1, -1.0, 1.0, (-3.0, 3.0)), ForestRow("average", 0.0, 0.0, 0.0, None, total=True)]
    for narrow in (False, True):
        svg = forest_svg(rows, narrow=narrow)
        assert "<b>" not in svg and "&lt;b&gt;" in svg
        assert "nan" not in svg


def test_a_damaged_comparison_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "comparison.json"
    for content in ("{", json.dumps({"sets": {"a": {}}}), json.dumps([])):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"comparison\.json: not a comparison"):
            write_comparison_page(file, file, file, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
