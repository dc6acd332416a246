"""Where commands write, and what they print of texts that others wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from control_sequences import obeys


def test_the_command_line_writes_into_what_it_is_given(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"response": "\\\\boxed{5}", "gold": "5"}\n')
    command = [sys.executable, "-m", "deepscaler.cli.main", "grade", str(rows), "--workers", "1", "--out"]
    into_pipe = subprocess.run([*command, "/dev/stdout"], capture_output=True, text=True, timeout=120)
    assert into_pipe.returncode == 0 and '"verdict": "correct"' in into_pipe.stdout
    (tmp_path / "full").symlink_to("/dev/full")
    refused = subprocess.run([*command, str(tmp_path / "full")], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 1 and f"{tmp_path / 'full'}: No space left on device" in refused.stderr
    assert (tmp_path / "full").is_symlink()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepscaler.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_errors_and_recipes_of_others_obey_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe\x1b[2J.toml"
    recipe.write_text('name = "a\\u001b[31mb\\u0007"\nnum_steps = 1\n"\\u001b]0;x\\u0007" = 3\n')
    ended = run("explain", str(recipe))
    assert ended.returncode == 2 and not obeys(ended.stderr + ended.stdout) and "\\x1b]0;x\\x07" in ended.stderr
    quickstart = Path(__file__).parents[2] / "recipes" / "quickstart.toml"
    for more in ((), ("--json",)):
        ended = run("explain", str(quickstart), "--set", 'name="a\\u001b[31mb\\u009bc"', *more)
        assert ended.returncode == 0, ended.stderr
        assert not obeys(ended.stdout) and "a\\" in ended.stdout
    assert json.loads(ended.stdout)["name"] == "a\x1b[31mb\x9bc"
