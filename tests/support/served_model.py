"""The project's own server over a model directory, in a thread of the test's process, on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepscaler.serve.app import Service
from deepscaler.serve.server import ServeOptions, make_server, open_service


@contextmanager
def served(model: Path, **settings: Any) -> Iterator[tuple[str, Service]]:
    """(address ending in /v1, the service). Ends with the context."""
    options = ServeOptions(**{"name": "tiny", "context": 400, "max_active": 16, "processes": 1, **settings})
    with open_service(model, options) as service, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = make_server(service, options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", service
        finally:
            server.should_exit = True
            thread.join(30)
