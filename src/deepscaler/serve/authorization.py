"""Authorization of requests: by API key; without a key only programs on this machine, and no web page.

A page in the user's browser can reach a loopback port. Its requests carry the Origin of the page, a foreign Host after
DNS rebinding, and a JSON media type only if this server allows it in a CORS preflight.
"""

from __future__ import annotations

import hmac
import re
from urllib.parse import urlsplit

from starlette.requests import Request

from deepscaler.serve.validation import RequestError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


def authorize(request: Request, token: str) -> None:
    """Raises RequestError for a request that is not allowed. token: the API key, empty for none."""
    if token:
        if not _has_key(request, token):
            raise RequestError(
                "missing or wrong API key (Authorization: Bearer ...)", status=401, code="invalid_api_key"
            )
        return
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise RequestError(
            f"requests to host {hosts[0] if hosts else ''!r:.200} are refused without an API key; use 127.0.0.1",
            status=403,
        )
    for origin in request.headers.getlist("origin"):
        if not _is_local(origin):
            raise RequestError(
                f"requests from web pages of {origin!r:.200} are refused; set an API key to allow them",
                status=403,
            )


def _has_key(request: Request, token: str) -> bool:
    """Whether the request carries the key, in UTF-8 or Latin-1: clients differ in how they encode it."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    raw = given.strip().encode("latin-1")  # the bytes as received: headers are decoded as Latin-1
    keys = [token.encode("utf-8")]
    if max(token) <= "\xff":
        keys.append(token.encode("latin-1"))
    right = [hmac.compare_digest(raw, key) for key in keys]
    return scheme.lower() == "bearer" and any(right)


def check_key(token: str, name: str) -> None:
    """Raises ValueError for a key that no HTTP header can carry. name: the environment variable that holds it."""
    if any(not c.isprintable() or c.isspace() for c in token):
        raise ValueError(
            f"the key in {name} holds a space or a control character, which no Authorization header can carry; use "
            "letters, digits and -._~+/="
        )


def _is_local(origin: str) -> bool:
    """Whether a page of this origin was served by this machine. `null` (files, sandboxes) is not."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return bool(_HOST.fullmatch(parts.netloc)) and parts.scheme in ("http", "https")
