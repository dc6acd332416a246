"""Whatever others have put into a text, the terminal shows it and obeys nothing in it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepscaler.config.sections.curriculum import StageSection
from deepscaler.evaluation.tables import Sheet, print_sheets
from deepscaler.loop.progress import Progress
from deepscaler.observability import terminal
from deepscaler.observability.rollout_metrics import rollout_stats
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup, Verdict

# Colours, clearing, moving, a title, the clipboard, a link; a bell, going back, deleting; C1, direction, separators.
HOSTILE = (
    "\x1b[31mred\x1b[2J\x1b[5A\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil\x1b\\"
    "\x00\x08\x0b\x0c\x0e\x7f\x9b31m\x85\u200f\u202eevil\u2066\u2028\ud83d\rover"
)

IDS = np.zeros(3, np.int32)
ROLLOUT = Rollout("p", 0, IDS, IDS, np.zeros(3, np.float32), FinishReason.STOP, 0)
SCORED = ScoredGroup(Group(Problem("p", "p", ("1",)), (ROLLOUT,)), ("",), (Verdict(Outcome.CORRECT, 1.0),))


def obeys(text: str) -> set[str]:
    """Control characters that a terminal would act on."""
    return {c for c in text if c not in "\n\t" and not c.isprintable() and not c.isspace()} | set(
        "\r\x0b\x0c\x85"
    ) & set(text)


@given(st.text(st.characters(codec=None)))
def test_nothing_to_obey_is_left_and_everything_else_is(text: str) -> None:
    shown = terminal.shown(text)
    assert not {c for c in shown if c < " " and c not in "\n\t"} and terminal.shown(shown) == shown
    shown.encode()
    kept = "".join(c for c in text if terminal.shown(c) == c)
    assert not obeys(terminal.shown(HOSTILE)) and (text != kept or shown == text)


def test_json_stays_the_same_document() -> None:
    document = {"name": HOSTILE, "é": "\U0001f600 \\x1b"}
    for ascii_only in (False, True):
        assert json.loads(terminal.shown(json.dumps(document, ensure_ascii=ascii_only))) == document


def test_streams_show_what_is_printed_and_are_otherwise_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", raw)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    terminal.install()
    terminal.install()  # once is enough
    print(HOSTILE, "→")
    sys.stdout.writelines(["\x1b[H", "b\n"])
    terminal.control(sys.stdout, "\r\x1b[2K")
    assert sys.stdout.encoding == "ascii" and not sys.stdout.isatty()
    monkeypatch.undo()
    written = raw.buffer.getvalue().decode()  # type: ignore[attr-defined]
    text, end = written[: -len("\r\x1b[2K")], written[-len("\r\x1b[2K") :]
    assert end == "\r\x1b[2K"
    assert text == terminal.shown(HOSTILE) + " \\u2192\n\\x1b[Hb\n"


def test_bars_of_the_hub_rewrite_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.StringIO()
    monkeypatch.setattr(sys, "stderr", raw)
    terminal.install()
    sys.stderr.write("\rfile\x1b: 50%")
    sys.stderr.write("\x1b[A")
    monkeypatch.undo()
    assert raw.getvalue() == "\rfile\\x1b: 50%\x1b[A"


def test_progress_is_one_line_of_what_it_is_told() -> None:
    for on_terminal in (False, True):
        stream = io.StringIO()
        progress = Progress(stream, terminal=on_terminal)
        progress.message(f"server says {HOSTILE}")
        progress.start_step(1, 2, StageSection(name=f"a\nb{HOSTILE}", max_completion_tokens=8, steps=1))
        progress.end_step(1, rollout_stats([SCORED]), 0.0)
        progress.update(HOSTILE, force=True)
        written = stream.getvalue().replace("\r\x1b[2K", "")
        assert not obeys(written) and "server says \\x1b[31mred" in written


def test_tables_obey_nothing_and_keep_their_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = Sheet(HOSTILE, ("benchmark", HOSTILE), (((HOSTILE, "1"),),), (HOSTILE,))
    print_sheets([sheet])
    assert not obeys(capsys.readouterr().out)
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    console = terminal.console(file=stream, force_terminal=True, color_system="standard")
    console.print(HOSTILE, style="bold", markup=False, highlight=False)
    written = stream.getvalue()
    assert (
        written.startswith("\x1b[1m")
        and "\\x1b[31mred" in written
        and not obeys(written.replace("\x1b[1m", "").replace("\x1b[0m", ""))
    )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepscaler.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_errors_and_recipes_of_others_obey_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe\x1b[2J.toml"
    recipe.write_text('name = "a\\u001b[31mb\\u0007"\nnum_steps = 1\n"\\u001b]0;x\\u0007" = 3\n')
    ended = run("explain", str(recipe))
    assert ended.returncode == 2 and not obeys(ended.stderr + ended.stdout) and "\\x1b]0;x\\x07" in ended.stderr
    quickstart = Path(__file__).parents[3] / "recipes" / "quickstart.toml"
    for more in ((), ("--json",)):
        ended = run("explain", str(quickstart), "--set", 'name="a\\u001b[31mb\\u009bc"', *more)
        assert ended.returncode == 0, ended.stderr
        assert not obeys(ended.stdout) and "a\\" in ended.stdout
    assert json.loads(ended.stdout)["name"] == "a\x1b[31mb\x9bc"
