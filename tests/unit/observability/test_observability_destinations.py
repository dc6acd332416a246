"""A path that a user names is written to as what it is: links stay links, devices and FIFOs are written into."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from deepscaler.observability.files import directory_at_once, write_atomically
from deepscaler.report import write_figure, write_report
from synthetic_run import write_synthetic_run

CONTENT = "content\n" * 20_000  # more than a pipe holds


def write(path: Path, content: str = CONTENT) -> None:
    write_atomically(path, lambda part: part.write_text(content))


def read_in_background(fifo: Path) -> tuple[threading.Thread, list[bytes]]:
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    thread.start()
    return thread, read


def test_a_link_stays_one_and_the_file_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, again = tmp_path / "elsewhere" / "file", tmp_path / "link", tmp_path / "again"
    link.symlink_to("elsewhere/file")  # dangling: the file is made
    again.symlink_to(link)
    for content in ("first", "second"):
        write(again, content)
        assert target.read_text() == content and not target.is_symlink()
        assert link.is_symlink() and again.is_symlink()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["again", "elsewhere", "file", "link"]


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    thread, read = read_in_background(fifo)
    write(fifo)
    thread.join(30)
    assert read == [CONTENT.encode()] and stat.S_ISFIFO(fifo.stat().st_mode)
    assert list(tmp_path.iterdir()) == [fifo]


def test_a_device_is_written_into_and_its_refusal_is_told(tmp_path: Path) -> None:
    full, nothing = tmp_path / "full", tmp_path / "nothing"
    full.symlink_to("/dev/full")
    nothing.symlink_to("/dev/null")
    write(nothing)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(full)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full))
    assert full.readlink() == Path("/dev/full") and nothing.readlink() == Path("/dev/null")


def test_a_directory_and_a_circle_of_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is a directory; name a file"):
        write(tmp_path)
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "a")


def test_a_failed_write_changes_neither_link_nor_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    (tmp_path / "link").symlink_to("file")

    def fails(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "link", fails)
    assert (tmp_path / "file").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_a_link_to_a_directory_stays_one_when_the_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to("real")
    with directory_at_once(tmp_path / "link") as directory:
        (directory / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["new"]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="is no directory"), directory_at_once(tmp_path / "fifo"):
        raise AssertionError("nothing may be made")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


def test_reports_and_figures_go_where_the_path_leads(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_synthetic_run(run)
    for name, make in (("r", lambda out: write_report([run], out)), ("f", lambda out: write_figure(run, out))):
        os.mkfifo(tmp_path / name)
        thread, read = read_in_background(tmp_path / name)
        make(tmp_path / name)
        thread.join(30)
        make(tmp_path / f"{name}.file")
        assert read == [(tmp_path / f"{name}.file").read_bytes()]
