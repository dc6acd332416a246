"""How long to wait for a server: judged by the answers it has given so far, within the limits of the settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.reply import Reply

SLOWER_TOKENS = 4.0  # times as long as the slowest token so far would make the longest completion
# Times the slowest answer so far. A stream is judged by the time between its pieces, a whole answer by all of its time:
# the first ones to arrive are short, and one of the whole budget takes much longer than they did.
SLOWER_STREAM, SLOWER_WHOLE = 8.0, 32.0
MAX_LOSSES = 4  # a request lost so often is given up; each time it gets twice the time


@dataclass(slots=True)
class Exchange:
    """One request under way. number: in the order of sending. heard: when anything of its answer came last."""

    number: int
    streamed: bool
    sent: float = field(default_factory=time.monotonic)
    heard: float | None = None

    def silence(self) -> float:
        """Seconds since the last byte of the answer, or since it was asked for."""
        return time.monotonic() - (self.sent if self.heard is None else self.heard)


class Patience:
    """What the answers so far say about the next one."""

    def __init__(self, section: ClientSection, budget: int) -> None:
        self._section, self._budget = section, budget
        self._num_sent = 0
        self._latest = -1  # of the requests that were answered, the one sent last
        self.forget()

    def forget(self) -> None:
        """A server that has one request to answer is faster than it will be."""
        self._slowest_token = self._slowest_answer = 0.0

    def begin(self, body: Mapping[str, Any]) -> Exchange:
        self._num_sent += 1
        return Exchange(self._num_sent, "stream" in body)

    def note(self, exchange: Exchange, reply: Reply) -> None:
        """Learn from a whole answer."""
        seconds = time.monotonic() - exchange.sent
        self._latest = max(self._latest, exchange.number)
        self._slowest_answer = max(self._slowest_answer, seconds)
        if reply.num_tokens and not exchange.streamed:
            self._slowest_token = max(self._slowest_token, seconds / reply.num_tokens)

    def silence_limit(self, *, streamed: bool) -> float:
        """Seconds without a byte to any request after which the server counts as dead.

        One that answers in one piece is silent as long as a whole completion takes.
        """
        s = self._section
        if streamed:
            return min(s.silence_s, s.read_s)
        if not self._slowest_token:
            return s.read_s
        return min(s.read_s, max(s.silence_s, self._longest()))

    def is_lost(self, exchange: Exchange, losses: int) -> bool:
        """Whether the server seems to have dropped the request: requests sent later have been answered, and this one
        has been silent for many times the slowest answer.

        losses: how often it was lost before. One that was needs no later answer: at the end of an evaluation there is
        none to come.
        """
        overtaken = losses > 0 or exchange.number < self._latest
        return overtaken and exchange.silence() > self.lost_limit(exchange, losses)

    def lost_limit(self, exchange: Exchange, losses: int) -> float:
        factor = SLOWER_STREAM if exchange.streamed else SLOWER_WHOLE
        limit = factor * self._slowest_answer
        if not exchange.streamed and self._slowest_token:
            limit = min(limit, max(self._longest(), SLOWER_STREAM * self._slowest_answer))
        return max(self._section.lost_s, limit) * 2.0**losses

    def _longest(self) -> float:
        """Seconds that a completion of the whole budget takes at most, judged by the slowest token so far."""
        return SLOWER_TOKENS * self._slowest_token * self._budget
