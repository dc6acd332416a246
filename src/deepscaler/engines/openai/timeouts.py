"""Timeouts of requests to a server, adapted to the response times seen so far within the limits of the settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.reply import Reply

SLOWER_TOKENS = 4.0  # multiple of the slowest time per token so far, for a completion of the whole budget
# Multiples of the slowest response so far. A stream is judged by the time between its chunks, a response without
# streaming by its whole time: the first ones to arrive are short, and one of the whole budget takes much longer.
SLOWER_STREAM, SLOWER_WHOLE = 8.0, 32.0
MAX_LOSSES = 4  # attempts at a request that the server drops; the timeout doubles with each


@dataclass(slots=True)
class Exchange:
    """One HTTP request that is in flight. number: in the order of sending. heard: time of the last byte received."""

    number: int
    streamed: bool
    sent: float = field(default_factory=time.monotonic)
    heard: float | None = None

    def silence(self) -> float:
        """Seconds since the last byte of the response, or since the request was sent."""
        return time.monotonic() - (self.sent if self.heard is None else self.heard)


class Timeouts:
    """Timeouts for the next request, estimated from the responses so far. budget: max_completion_tokens."""

    def __init__(self, section: ClientSection, budget: int) -> None:
        self._section, self._budget = section, budget
        self._num_sent = 0
        self._latest = -1  # number of the last-sent request that has a response
        self.reset()

    def reset(self) -> None:
        """Forget the response times of probes: a server with a single request is faster than under load."""
        self._slowest_token = self._slowest_response = 0.0

    def begin(self, body: Mapping[str, object]) -> Exchange:
        self._num_sent += 1
        return Exchange(self._num_sent, "stream" in body)

    def record(self, exchange: Exchange, reply: Reply) -> None:
        """Record a complete response."""
        seconds = time.monotonic() - exchange.sent
        self._latest = max(self._latest, exchange.number)
        self._slowest_response = max(self._slowest_response, seconds)
        if reply.num_tokens and not exchange.streamed:
            self._slowest_token = max(self._slowest_token, seconds / reply.num_tokens)

    def silence_limit(self, *, streamed: bool) -> float:
        """Seconds without a byte of any response after which the server counts as dead.

        Without streaming the server sends nothing for as long as a whole completion takes.
        """
        s = self._section
        if streamed:
            return min(s.silence_s, s.read_s)
        if not self._slowest_token:
            return s.read_s
        return min(s.read_s, max(s.silence_s, self._longest()))

    def is_lost(self, exchange: Exchange, losses: int) -> bool:
        """Whether the server seems to have dropped the request: requests sent later have been answered, and this one
        has been silent for many times the slowest response.

        losses: how often it was lost before. After the first loss no later response is required: at the end of an
        evaluation there is none.
        """
        overtaken = losses > 0 or exchange.number < self._latest
        return overtaken and exchange.silence() > self.lost_limit(exchange, losses)

    def lost_limit(self, exchange: Exchange, losses: int) -> float:
        factor = SLOWER_STREAM if exchange.streamed else SLOWER_WHOLE
        limit = factor * self._slowest_response
        if not exchange.streamed and self._slowest_token:
            limit = min(limit, max(self._longest(), SLOWER_STREAM * self._slowest_response))
        return max(self._section.lost_s, limit) * 2.0**losses

    def _longest(self) -> float:
        """Upper estimate of the seconds for a completion of the whole budget, from the slowest time per token."""
        return SLOWER_TOKENS * self._slowest_token * self._budget
