"""What the evaluator itself costs: 1,560 problems x 16 samples from a server that answers at once. Prints JSON.

    python benchmarks/eval_overhead.py [--problems 1560] [--samples 16] [--kilobytes 4] [--stream]

The server is a process of its own and answers every request with a text of the given size; what is measured is the
evaluating process: HTTP, storing, handing to the grader, tables. The grader's processes are counted apart. With
--stream the answer comes as one event for every four characters, about a token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from deepscaler.config.evaluation import load_evaluation
from deepscaler.evaluation.datasets import describe
from deepscaler.lifetime import die_with_parent
from deepscaler.loop.evaluate import Job, evaluate_endpoint
from deepscaler.loop.progress import Progress
from deepscaler.types import Problem

WARM_FRAC, END_FRAC = 0.1, 0.98  # memory is compared from where imports and the grader have come in to the last sample


async def serve(kilobytes: int, stream: bool) -> None:
    """One answer to everything, as fast as Python gives it."""
    filler = "so we go on. " * (kilobytes * 1024 // 13)
    counter = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal counter
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            asked = json.loads(await reader.readexactly(int(length[1]))) if length else {}
            counter += 1
            if stream and asked.get("stream"):
                await send_events(writer, asked)
                continue
            body = models() if head.startswith(b"GET") else completion(asked)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
            writer.write(str(len(body)).encode() + b"\r\n\r\n" + body)
            await writer.drain()

    def models() -> bytes:
        return json.dumps({"data": [{"id": "fast"}]}).encode()

    def completion(asked: Any) -> bytes:
        text = f"<think>{filler}{asked['seed']}</think>\\boxed{{{asked['seed'] % 7}}}"
        choices = [{"message": {"content": text}, "finish_reason": "stop"}] * asked["n"]
        usage = {"completion_tokens": 16}
        return json.dumps({"id": f"r{counter}", "model": "fast", "choices": choices, "usage": usage}).encode()

    async def send_events(writer: asyncio.StreamWriter, asked: Any) -> None:
        whole = json.loads(completion(asked))
        usage, choices = whole.pop("usage"), whole.pop("choices")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        text = choices[0]["message"]["content"]
        for start in range(0, len(text), 4):
            delta = {"index": 0, "delta": {"content": text[start : start + 4]}, "finish_reason": None}
            event(writer, {**whole, "choices": [delta]})
            if start % 64 == 0:
                await writer.drain()
        event(writer, {**whole, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await client(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quiet, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def event(writer: asyncio.StreamWriter, content: Any) -> None:
    data = b"data: " + json.dumps(content).encode() + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


class Memory:
    """Resident memory of this process in MiB, by the share of the samples that are stored."""

    def __init__(self, journal: Path, expected_bytes: float) -> None:
        self.readings: list[tuple[float, float]] = []
        self._journal, self._expected = journal, expected_bytes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            size = self._journal.stat().st_size if self._journal.exists() else 0
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings.append((size / self._expected, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def measure(problems: int, samples: int, kilobytes: int, stream: bool) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", "--kilobytes", str(kilobytes)]
    command += ["--stream"] if stream else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, tempfile.TemporaryDirectory() as root:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        recipe = load_evaluation(None, [f"sampling.num_samples={samples}"])
        problem_set = [Problem(f"p{i}", f"What is {i} modulo 7?", (str(i % 7),)) for i in range(problems)]
        job = Job(recipe, describe({"modulo": problem_set}), Path(root), Progress(sys.stderr, terminal=False))
        start, cpu = time.perf_counter(), time.process_time()
        with Memory(
            Path(root) / "journal" / "completions.jsonl", problems * samples * (kilobytes * 1024 + 250)
        ) as memory:
            results = evaluate_endpoint(address, "fast", job)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
        server.kill()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    count = problems * samples
    warm = [m for share, m in memory.readings if WARM_FRAC < share < END_FRAC]
    return {
        "samples": count,
        "kilobytes_per_sample": kilobytes,
        "streamed": stream,
        "evaluator_cpu_ms_per_sample": round(1000 * cpu / count, 3),
        "children_cpu_ms_per_sample": round(1000 * (children.ru_utime + children.ru_stime) / count, 3),
        "wall_s": round(wall, 1),
        "memory_mib_at_a_tenth": round(warm[0], 1),
        "memory_mib_at_the_last_sample": round(warm[-1], 1),
        "memory_mib_highest_while_writing_tables": round(max(m for _, m in memory.readings), 1),
        "pass@1": results.average.mean,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1560)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--kilobytes", type=int, default=4)
    parser.add_argument("--stream", action="store_true", help="answers come in pieces")
    parser.add_argument("--serve", action="store_true", help="internal: be the server")
    arguments = parser.parse_args()
    if arguments.serve:
        die_with_parent()
        asyncio.run(serve(arguments.kilobytes, arguments.stream))
    else:
        figures = measure(arguments.problems, arguments.samples, arguments.kilobytes, arguments.stream)
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
