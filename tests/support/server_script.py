"""The script of a test server: what it answers, and the faults that it plants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deepscaler.randomness import generator

Reply = Callable[[str, int], str]  # question, seed -> completion text
FAULTS = (
    "error_500", "hang_up", "silence", "malformed", "half_body", "duplicate", "rate_limit", "endless", "stall",
    "deep",
)  # fmt: skip


@dataclass
class Faults:
    """Share of requests that meet each fault, drawn anew for every attempt."""

    error_500: float = 0.0
    hang_up: float = 0.0  # the connection is closed instead of an answer
    silence: float = 0.0  # no answer at all, for `silence_s`
    deep: float = 0.0  # JSON nested 200,000 levels deep
    malformed: float = 0.0  # half a JSON document
    half_body: float = 0.0  # the connection breaks in the middle of the body
    duplicate: float = 0.0  # the reply to an earlier request
    # Which earlier reply. Of two with one id a client takes the first it reads for the right one, so with requests at
    # once it must be older than these.
    replies_back: int = 1
    rate_limit: float = 0.0
    endless: float = 0.0  # a body that does not end
    stall: float = 0.0  # a stream that begins and then says nothing, for `silence_s`
    truncated: float = 0.0  # per (question, seed), not per attempt: cut at the budget
    silence_s: float = 30.0


@dataclass
class Script:
    """How the server behaves. `reply` decides each text; the rest deviates from a well-behaved server."""

    reply: Reply
    model: str = "scripted"
    owned_by: str = "script"
    faults: Faults = field(default_factory=Faults)
    key: str = ""
    max_model_len: int | None = None
    say_usage: bool = True
    num_tokens: int = 7  # said of every completion that ends by itself
    say_finish: bool = True
    ignore: frozenset[str] = frozenset()  # sampling settings without effect
    streams: bool = True
    reasoning_field: str = ""
    latency_s: float = 0.0
    piece_s: float = 0.0  # between two pieces of a stream
    wait_s: dict[str, float] = field(default_factory=dict)  # question -> seconds in the queue


def right_with_probability(answers: dict[str, str], rate: Callable[[str], float]) -> Reply:
    """Right answers with the probability `rate(question)`, a function of question and seed."""

    def reply(question: str, seed: int) -> str:
        answer = next((a for q, a in answers.items() if question.startswith(q)), "?")
        good = generator("scripted", question, seed).random() < rate(question)
        return f"<think>\nhm {seed}\n</think>\nIt is \\boxed{{{answer if good else '-1'}}}."

    return reply
