r"""LaTeX that JSON's escapes have eaten is put back where it has one reading, and named where it has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepscaler.data.prepare.preparation import Settings, Tools, prepare
from deepscaler.data.sources.broken_text import fault_of, repair_latex
from deepscaler.data.sources.layouts import Columns
from deepscaler.data.sources.load import load_problems
from deepscaler.data.sources.readers import DataError


@pytest.mark.parametrize(
    "written",
    [
        "\\frac12", "\\frac{a}{b}", "\\binom{n}{k}", "\\begin{cases}1\\end{cases}", "\\boxed{2}", "\\beta", "\\bar x",
        "2\\times 3", "\\text{cm}", "\\textbf{(A)}", "\\theta", "\\tau", "\\right)", "\\rho", "\\alpha", "\\vec v",
        "\\forall x", "\\tfrac12", "a \\times\\frac12", "\\triangle ABC",
    ],
)  # fmt: skip
def test_a_command_whose_backslash_was_eaten_is_put_back(written: str) -> None:
    eaten = written
    for letter, control in (("f", "\f"), ("b", "\b"), ("t", "\t"), ("r", "\r"), ("a", "\a"), ("v", "\v")):
        eaten = eaten.replace(f"\\{letter}", control)
    assert eaten != written
    assert repair_latex(f"Find ${eaten}$.") == f"Find ${written}$."
    assert fault_of(repair_latex(eaten)) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Name\tangle\tright\n", "a\tan apple\tto go", "first\nexists\nne\neq. (3)", "one\r\nright\r\n", "tab\text",
        "\ttimes square", "x\n\ny", "Page\f\n2",
    ],
)  # fmt: skip
def test_text_that_may_mean_itself_stays(text: str) -> None:
    assert repair_latex(text) == text.replace("\text", "\text") and fault_of(text) == ""


@pytest.mark.parametrize(("text", "read"), [("$x\neq 3$", "$x\\neq 3$"), ("$\to\tan x$", "$\\to\\tan x$")])
def test_inside_a_formula_more_has_one_reading(text: str, read: str) -> None:
    assert repair_latex(text) == read
    assert repair_latex(text.strip("$"), is_formula=True) == read.strip("$")
    assert repair_latex(text.strip("$")) == text.strip("$")


def test_what_has_no_reading_is_named() -> None:
    assert "'\\x08' before 'x12'" in fault_of("a\bx12")
    assert "'\\x1b' before '[31m'" in fault_of("\x1b[31m")
    assert fault_of("half \ud83d of it") == "half of a surrogate pair, which is no character"


def rows(tmp_path: Path, *texts: tuple[str, str]) -> Path:
    """A file written by hand, its backslashes not doubled."""
    lines = [f'{{"problem": "{problem}", "answer": "{answer}"}}' for problem, answer in texts]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    assert all(json.loads(line) for line in lines)
    return path


def test_repaired_in_training_and_in_preparation(tmp_path: Path) -> None:
    path = rows(tmp_path, ("What is half of $\\frac12$?", "\\frac14"), ("Which?", "\\text{(B)}"))
    first, second = load_problems(path)
    assert (first.prompt, first.references) == ("What is half of $\\frac12$?", ("\\frac14",))
    assert second.references == ("\\text{(B)}",)
    done = prepare([path], (), Settings(Columns()), Tools(lambda a, b: a == b, bool))
    assert done.train["answer"].to_pylist() == [["\\frac14"], ["\\text{(B)}"]]


@pytest.mark.parametrize(("broken", "field"), [(("a\\bx?", "1"), "problem"), (("b?", "\\fx2"), "answer"),
                                               (("c\\ud800?", "1"), "problem")])  # fmt: skip
def test_refused_in_training_and_counted_in_preparation(tmp_path: Path, broken: tuple[str, str], field: str) -> None:
    path = rows(tmp_path, ("1+1?", "2"), broken)
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 1, field '{field}': (the control character|half of)"):
        load_problems(path)
    done = prepare([path], (), Settings(Columns()), Tools(lambda a, b: a == b, bool))
    (gone,) = done.dropped_table().to_pylist()
    assert (gone["reason"], gone["row"]) == ("broken_text", 1) and f"field '{field}'" in gone["detail"]
