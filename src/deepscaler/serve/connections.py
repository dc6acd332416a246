"""Connection timeouts: for the head of a request, and for a client that does not read its response.

uvicorn closes connections that are idle between two requests, but not those that never send a complete head, or do
not read their response.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0  # for the head of a request, from the start of the connection or of the request
UNREAD_S = 60.0  # without the client reading any of its response


class BoundedProtocol(H11Protocol):
    """Closes a connection when the head of a request takes longer than `HEAD_S`, or its response is not read."""

    head_s, unread_s = HEAD_S, UNREAD_S
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_head_timeout()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._cancel_head_timeout()
        elif before is None or before.response_complete:  # part of a head, or a body after the response
            self._start_head_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timeout()
        self._cancel_unread_timeout()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the transport when its write buffer is full."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_unread_timeout()
        super().resume_writing()

    def _cancel_unread_timeout(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _start_head_timeout(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_s, self.transport.close)

    def _cancel_head_timeout(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
