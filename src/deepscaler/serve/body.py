"""Body of a request: JSON of bounded size, received within bounded time, valid Unicode."""

from __future__ import annotations

import asyncio
import re
from typing import NoReturn

from starlette.requests import ClientDisconnect, Request

from deepscaler.json_text import parse_json
from deepscaler.serve.fields import RequestError

MAX_BODY_BYTES = 8 * 2**20
BODY_S = 60.0  # for the whole body
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


async def read_json(request: Request) -> object:
    """Raises RequestError."""
    # A browser sends a foreign page's request without asking first only for other media types than this one.
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
        raise RequestError(f"the body had not come after {BODY_S:g} s", status=408) from None
    except ClientDisconnect as error:
        raise RequestError("the client went away", status=499) from error
    return parse(bytes(body))


def parse(body: bytes) -> object:
    """The JSON document in `body`. Raises RequestError for what is none, or holds half of a surrogate pair."""
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
                r"the body holds half of a surrogate pair (such as \ud83d without what follows it), which is no text; "
                "encode it as UTF-8"
            )
        left.extend([*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ())


def _too_long() -> RequestError:
    return RequestError(f"the body exceeds {MAX_BODY_BYTES} bytes", status=413)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
