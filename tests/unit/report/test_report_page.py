"""The report as a file: complete, self-contained, bearing with partial and hostile runs."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepscaler.report import write_report
from deepscaler.report.figure import write_figure
from deepscaler.report.page import embed
from deepscaler.report.rollout_sample import MAX_ROLLOUTS, choose_groups, sample_rollouts, shorten
from deepscaler.report.runs import read_runs
from deepscaler.report.scale import Scale, decades, ticks_between, value_range
from deepscaler.report.style import script_hash
from synthetic_run import HOSTILE_TEXTS, write_synthetic_run


class Page(HTMLParser):
    """Tags with their attributes, and the text of every script and of everything else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("run"), hostile=True, alarm=True)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report([run], run / "report.html").read_text()


def test_everything_the_report_promises_is_there(html: str) -> None:
    page = Page(html)
    for title in ("Pass@1", "Reward", "Completion length", "Truncated share", "Entropy", "Trainer–engine mismatch"):
        assert title in page.text
    assert "truncated share rose from 4.2% to 6.5% while the reward was flat" in page.text
    assert "1 alarm" in page.text
    assert {"result", "stages", "rollouts", "recipe"} <= {a.get("id") for tag, a in page.tags if tag == "section"}
    assert [tag for tag, _ in page.tags].count("svg") >= 8


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert "url(http" not in html and "@import" not in html
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and "default-src 'none'" in policy
    assert script_hash(page.scripts[-1]) in policy  # the one script that may run is the page's own


def test_hostile_text_arrives_as_data_only(html: str) -> None:
    page = Page(html)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    texts = [r["text"] for g in data["groups"] for r in g["rollouts"]]
    for text in HOSTILE_TEXTS:
        assert text in texts
        assert text not in html


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028", "]]>", "&lt;"])
def test_embedded_json_cannot_end_its_element_and_is_read_back(text: str) -> None:
    embedded = embed({"a": text})
    assert not re.search(r"[<>&\u2028\u2029]", embedded)
    assert json.loads(embedded) == {"a": text}


def test_a_run_just_begun_has_a_report(tmp_path: Path) -> None:
    run = write_synthetic_run(tmp_path, num_steps=3, evaluated=False)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + "\n")
    shutil.rmtree(run / "rollouts")
    text = Page(write_report([run], tmp_path / "out.html").read_text()).text
    assert "No training step yet." in text and "No rollouts were kept" in text


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = [write_synthetic_run(tmp_path / f"seed-{s}", seed=s, num_steps=9) for s in (1, 2)]
    text = Page(write_report(runs, tmp_path / "both.html").read_text()).text
    assert "quickstart (seed-1)" in text and "quickstart (seed-2)" in text


def test_what_is_no_run_directory_is_told_where_runs_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run directory"):
        write_report([tmp_path], tmp_path / "x.html")
    shutil.copytree(run, tmp_path / "inner")
    with pytest.raises(ValueError, match=r"did you mean .*inner"):
        write_report([tmp_path], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_the_sample_holds_whole_groups_and_every_verdict(run: Path) -> None:
    sample = sample_rollouts(read_runs([run]))
    assert 0 < sample.num_shown <= min(MAX_ROLLOUTS, sample.num_all)
    assert all(len(g["rollouts"]) == 8 for g in sample.groups)
    outcomes = {r["outcome"] for g in sample.groups for r in g["rollouts"]}
    assert {"correct", "wrong", "truncated", "no_answer"} <= outcomes


def test_a_rare_verdict_is_chosen_first() -> None:
    groups = [[{"outcome": "timeout" if i == 37 else "wrong"}] for i in range(50)]
    assert groups[37] in choose_groups(groups, 3)


def test_a_long_text_keeps_its_head_and_its_end() -> None:
    short = shorten("a" * 1000 + "\\boxed{7}", 90)
    assert short.startswith("aaa") and short.endswith("\\boxed{7}") and "characters left out" in short
    assert shorten("abc", 90) == "abc"


def test_the_figure_is_one_svg_with_four_panels(run: Path, tmp_path: Path) -> None:
    root = ElementTree.fromstring(write_figure(run, tmp_path / "figure.svg").read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    titles = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text") if "title" in (e.get("class") or "")]
    assert titles == ["Pass@1", "Reward", "Completion length, tokens", "Truncated share"]


def test_ticks_are_round_and_inside() -> None:
    assert ticks_between(0, 1, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks_between(0, 7, 4, whole=True) == [0, 2, 4, 6]
    assert Scale(1e-7, 1e-4, 0, 300, logarithmic=True)(1e-6) == pytest.approx(100)
    assert Scale(0, 10, 100, 0)(5) == 50  # upside down, as pixels are
    assert value_range([], from_zero=True) == (0.0, 1.0)
    assert value_range([0.3, 0.93], from_zero=True, at_most=1.0) == (0.0, 1.0)
    assert decades([2e-7, 3e-5]) == (pytest.approx(1e-7), pytest.approx(1e-4))
    assert decades([0.0]) is None
