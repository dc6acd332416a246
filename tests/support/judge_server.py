"""A chat completion server for tests of judges: it answers as told, and counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class JudgeServer:
    """answers: the body of a request and its number -> (HTTP status, text of the reply)."""

    url: str
    answers: Callable[[dict[str, Any], int], tuple[int, str]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def judge_server(answers: Callable[[dict[str, Any], int], tuple[int, str]]) -> Iterator[JudgeServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization", ""))
            status, text = answers(body, len(server.bodies))
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            content = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
            reply = (json.dumps(content) if status == 200 else text).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = JudgeServer(f"http://127.0.0.1:{http.server_port}/v1", answers)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join(timeout=10)
