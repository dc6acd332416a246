"""A worker's log: its stacks are readable also when several ask for them at the same time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from deepscaler.cluster.worker_log import WorkerLog, wait_for_stacks

ASKS = """
import sys, threading, time
from deepscaler.cluster.worker_log import write_stacks, write_stderr_to
def deep(depth):
    deep(depth - 1) if depth else time.sleep(1e6)
for _ in range(80):
    threading.Thread(target=deep, args=(50,), daemon=True).start()
time.sleep(0.3)
write_stderr_to(sys.argv[1])
print("ready", flush=True)
for _ in sys.stdin:
    write_stacks()
"""
LINE = re.compile(
    r'(Current thread|Thread) 0x[0-9a-f]+ .*\(most recent call first\):|  File "[^"]+", line \d+ in [\w<>]+|'
)


def test_stacks_asked_for_from_inside_and_outside_at_once_do_not_mix_their_lines(tmp_path: Path) -> None:
    log = tmp_path / "rank.log"
    command = [sys.executable, "-c", ASKS, str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "ready\n"
        for _ in range(5):
            before = log.stat().st_size
            process.stdin.write("go\n")
            process.stdin.flush()
            while log.stat().st_size == before and process.poll() is None:
                pass
            os.kill(process.pid, signal.SIGUSR1)  # in the middle of the stacks
            wait_for_stacks(lambda: log.stat().st_size, before)
        process.stdin.close()
    assert process.returncode == 0
    lines = log.read_text().splitlines()
    assert len(lines) > 1000
    assert [line for line in lines if not LINE.fullmatch(line)] == []


def test_who_asks_waits_until_the_stacks_are_complete(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path / "rank.log")
    sizes = iter([0, 0, 100, 250, 400] + [400] * 1000)
    wait_for_stacks(lambda: next(sizes), 0)
    assert next(sizes) == 400
    wait_for_stacks(log.size, log.size(), limit_s=0.2)  # of a process that was stopped: gives up
    log.close()
