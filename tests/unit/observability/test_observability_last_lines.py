"""The end of a log in a message."""

from __future__ import annotations

from pathlib import Path

from deepscaler.observability.last_lines import SHOWN_BYTES, last_lines


def test_the_last_lines_since_a_place_with_the_path(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("before\n" + "".join(f"line {i}\n" for i in range(9)))
    assert last_lines(log, count=2) == f"; its last lines ({log}):\nline 7\nline 8"
    assert "before" not in last_lines(log, since=7, count=20)


def test_a_long_line_is_shown_from_its_end_and_what_is_no_text_is_no_error(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"x" * 10_000 + b"\xff the end")
    text = last_lines(log)
    assert text.endswith("the end") and len(text) < SHOWN_BYTES + 200


def test_no_file_and_an_empty_one_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert last_lines(None) == last_lines(tmp_path / "absent") == last_lines(tmp_path / "empty") == ""
