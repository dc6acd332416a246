"""Reads the body of a request: JSON of bounded size, received within bounded time, valid Unicode."""

from __future__ import annotations

import asyncio
import re
from typing import NoReturn

from starlette.requests import ClientDisconnect, Request

from deepscaler.json_text import parse_json
from deepscaler.serve.validation import RequestError

MAX_BODY_BYTES = 8 * 2**20
BODY_S = 60.0  # for the whole body
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


async def read_json(request: Request) -> object:
    """The JSON document of the request. Raises RequestError."""
    # A browser sends another site's request with this media type only after a CORS preflight.
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != "application/json":
        raise RequestError("expected Content-Type: application/json", status=415)
    if int(request.headers.get("content-length", "0")) > MAX_BODY_BYTES:  # the HTTP parser guarantees a number
        raise _too_long()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise _too_long()
    except TimeoutError:
        raise RequestError(f"the body was not complete after {BODY_S:g} s", status=408) from None
    except ClientDisconnect as error:
        raise RequestError("the client disconnected", status=499) from error
    return parse_body(bytes(body))


def parse_body(body: bytes) -> object:
    """The JSON document in `body`. Raises RequestError for invalid JSON and for lone surrogates."""
    try:
        text = body.decode("utf-8")
        document = parse_json(text, parse_constant=_no_number)
    except ValueError as error:
        raise RequestError(f"the body is not JSON ({error})") from error
    if _SURROGATE.search(text):
        _refuse_lone_surrogates(document)
    return document


def _refuse_lone_surrogates(document: object) -> None:
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise RequestError(
                r"the body holds a lone surrogate (such as \ud83d without its second half), which is invalid; encode "
                "the text as UTF-8"
            )
        left.extend([*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ())


def _too_long() -> RequestError:
    return RequestError(f"the body exceeds {MAX_BODY_BYTES} bytes", status=413)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
