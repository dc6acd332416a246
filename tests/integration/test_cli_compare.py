"""`deepscaler compare`: the names of the two sides, and files before anything is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from compared_sides import side
from deepscaler.cli.main import app


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return side(tmp_path / "a"), side(tmp_path / "b", temperature=1.0)


def test_the_two_sides_can_be_named(two: tuple[Path, Path], tmp_path: Path) -> None:
    call = ["compare", *map(str, two), "--name-a", "before", "--name-b", "after", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert "A before: temperature" in " ".join(done.stdout.split())
    assert "<b>B</b> after<" in (tmp_path / "out" / "comparison.html").read_text()


def test_files_are_written_before_anything_is_printed(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compare --out DIR | head -1` ends at the first line that nobody reads."""

    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("deepscaler.evaluation.tables.print_comparison", closed)
    CliRunner().invoke(app, ["compare", *map(str, two), "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").iterdir())) == 5
