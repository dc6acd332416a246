"""Who may ask the server, in which form, and how long a connection may do nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepscaler.serve import body
from deepscaler.serve.app import Service
from deepscaler.serve.connections import BoundedProtocol
from deepscaler.serve.requests import RequestError
from deepscaler.serve.server import ServeOptions, read_token
from served_model import served
from tiny_run import write_model

BODY = json.dumps({"model": "tiny", "prompt": "1", "max_tokens": 2}).encode()
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("admitted") / "model")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[tuple[str, Service]]:
    with served(model) as running:
        yield running


def connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").removesuffix("/v1").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def ask(address: str, head: str, *headers: bytes, content: bytes = b"") -> tuple[int, Any]:
    """(status, document) of a request written byte by byte; `{host}` in a header is the server's own."""
    host = address.removeprefix("http://").removesuffix("/v1").encode()
    lines = [header.replace(b"{host}", host) for header in headers]
    if not any(line.lower().startswith(b"host:") for line in lines):
        lines.append(b"Host: " + host)
    lines += [b"Connection: close", b"Content-Length: %d" % len(content)]
    with connect(address) as connection:
        connection.sendall(b"\r\n".join([f"{head} HTTP/1.1".encode(), *lines, b"", content]))
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, rest = reply.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(rest)


def complete(address: str, *headers: bytes) -> tuple[int, Any]:
    kind = () if any(h.lower().startswith(b"content-type") for h in headers) else (b"Content-Type: application/json",)
    return ask(address, "POST /v1/completions", *headers, *kind, content=BODY)


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1@evil.com", b"evil.com@127.0.0.1", b"evil.com#@127.0.0.1", b"127.0.0.1.evil.com", b"evil.com:127",
        b"localhost.", b"127.0.0.1:80:80", b"127.0.0.1/evil.com", b"[::1]evil", b"", b"127.0.0.1:", b"2130706433",
    ],
)  # fmt: skip
def test_only_the_exact_names_of_this_machine_are_taken(server: tuple[str, Service], host: bytes) -> None:
    status, reply = complete(server[0], b"Host: " + host)
    assert status == 403 and "are not taken" in reply["error"]["message"]


@pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost:8000", b"LOCALHOST", b"[::1]:99"])
def test_the_names_of_this_machine_are_taken(server: tuple[str, Service], host: bytes) -> None:
    assert complete(server[0], b"Host: " + host)[0] == 200


@pytest.mark.parametrize(
    "origin",
    [b"http://evil.com", b"https://127.0.0.1.evil.com", b"null", b"http://127.0.0.1@evil.com", b"http://[", b"file://"],
)
def test_pages_of_others_are_refused(server: tuple[str, Service], origin: bytes) -> None:
    for head in ("POST /v1/completions", "GET /v1/models"):
        status, reply = ask(server[0], head, b"Origin: " + origin, b"Content-Type: application/json", content=BODY)
        assert status == 403 and "web pages" in reply["error"]["message"]


def test_pages_of_this_machine_are_taken(server: tuple[str, Service]) -> None:
    assert complete(server[0], b"Origin: http://{host}")[0] == 200
    assert complete(server[0], b"Origin: http://localhost:3000")[0] == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"application/json", 200),
        (b"Application/JSON; charset=utf-8", 200),
        (b"text/plain; x=json", 415),
        (b"text/plain; charset=application/json", 415),
        (b"application/x-www-form-urlencoded; json", 415),
        (b"multipart/form-data; boundary=json", 415),
        (b"text/plain, application/json", 415),
        (b"application/jsonp", 415),
        (b"", 415),
    ],
)
def test_the_media_type_is_json(server: tuple[str, Service], kind: bytes, status: int) -> None:
    assert complete(server[0], b"Content-Type: " + kind)[0] == status


def test_two_media_types_are_none(server: tuple[str, Service]) -> None:
    assert complete(server[0], b"Content-Type: text/plain", b"Content-Type: application/json")[0] == 415


def test_one_model_by_its_name(server: tuple[str, Service]) -> None:
    address, _ = server
    status, listed = ask(address, "GET /v1/models")
    assert ask(address, "GET /v1/models/tiny") == (status, listed["data"][0])
    status, reply = ask(address, "GET /v1/models/some/other")
    assert status == 404 and reply["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("key", ["sesame", "schlüssel", "ключ"])
def test_a_key_is_compared_as_it_is_sent(model: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("DEEPSCALER_API_KEY", key)
    with served(model) as (address, service):
        assert complete(address, b"Authorization: Bearer " + key.encode())[0] == 200
        assert complete(address, b"authorization: bearer  " + key.encode())[0] == 200
        if key == "schlüssel":  # as browsers and Python's http.client send it
            assert complete(address, b"Authorization: Bearer " + key.encode("latin-1"))[0] == 200
        for wrong in (b"", b"Bearer", b"Bearer x", b"Basic " + key.encode(), key.encode(), b"Bearer \xff\xfe"):
            status, reply = complete(address, b"Authorization: " + wrong)
            assert status == 401 and reply["error"]["code"] == "invalid_api_key"
        # With a key, it alone decides: a page that has it may ask.
        assert complete(address, b"Origin: http://a.example", b"Authorization: Bearer " + key.encode())[0] == 200
        assert ask(address, "GET /v1/models/tiny")[0] == 401
        # Whoever watches the server needs no key, and is not told how busy it is.
        assert ask(address, "GET /health") == (200, {"status": "ok"})
        with_key = ask(address, "GET /health", b"Authorization: Bearer " + key.encode())
        assert with_key == (200, {"status": "ok", "open": 0})

        def failed(count: int = 0) -> None:
            raise RequestError("the engine failed", status=500)

        monkeypatch.setattr(service.engine, "check", failed)
        assert ask(address, "GET /health") == (503, {"status": "failed"})


@pytest.mark.parametrize("key", ["open sesame", "a\x07b", "a\u200bb"])
def test_a_key_that_no_header_carries_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("DEEPSCALER_API_KEY", key)
    with pytest.raises(ValueError, match="no Authorization header can carry"):
        read_token(ServeOptions())


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ends the connection by itself."""
    try:
        while connection.recv(65536):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_connections_that_send_no_request_are_closed(
    server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.2)
    with connect(server[0]) as silent, connect(server[0]) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: 12")
        assert is_closed(silent) and is_closed(slow)
    with connect(server[0]) as again:  # the head of a second request is bounded like the first
        again.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert again.recv(65536).startswith(b"HTTP/1.1 200")
        again.sendall(b"G")
        assert is_closed(again)


def test_a_request_under_way_is_not_taken_for_silence(
    server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.1)
    parse, taken = body.parse, []

    def slow(content: bytes) -> Any:
        taken.append(time.sleep(0.5))
        return parse(content)

    monkeypatch.setattr(body, "parse", slow)
    assert complete(server[0])[0] == 200 and taken


def test_an_answer_that_nobody_reads_is_given_up(server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "unread_s", 0.2)
    body = {"model": "tiny", "prompt": [[5] * 390] * 64, "max_tokens": 0, "echo": True, "logprobs": 20}
    content = json.dumps(body).encode()  # the answer has some 15 MB, more than the system keeps for a connection
    with connect(server[0]) as connection:
        connection.sendall(HEAD % len(content) + content)
        assert connection.recv(12) == b"HTTP/1.1 200"
        with pytest.raises(ConnectionError):
            for _ in range(3000):  # what is sent to a closed connection is refused
                connection.send(b"\n")
                time.sleep(0.01)


def test_a_body_that_does_not_come_is_not_waited_for(
    server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_S", 0.2)
    with connect(server[0]) as connection:
        connection.sendall(HEAD % 99 + b"{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_body_that_is_too_long_is_refused_by_its_announced_length(server: tuple[str, Service]) -> None:
    with connect(server[0]) as connection:
        connection.sendall(HEAD % (body.MAX_BODY_BYTES + 1))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_no_more_connections_than_may_be_queued_and_some_to_spare(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepscaler.serve.server.SPARE_CONNECTIONS", 4)
    with served(model, max_queued=2) as (address, _):
        held = [connect(address) for _ in range(6)]
        try:
            with connect(address) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        finally:
            for each in held:
                each.close()
