"""Replies of servers: thoughts, errors in every shape, and what is no completion."""

from __future__ import annotations

import pytest

from deepscaler.engines.openai.reply import MalformedReplyError, error_message, parse_reply
from openai_clients import reply


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_in_a_field_of_their_own_are_thoughts(field: str) -> None:
    parsed = parse_reply(reply({"content": "\\boxed{2}", field: "or \\boxed{1}"}))
    assert parsed.text == "<think>\nor \\boxed{1}\n</think>\n\\boxed{2}"
    assert parse_reply(reply({"content": None, field: "still \\boxed{1}"})).text == "<think>\nstill \\boxed{1}"
    assert parse_reply(reply({"content": "<think>a</think>b"})).text == "<think>a</think>b"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"choices": [{"message": {"content": 3}}]}']
)
def test_what_is_no_completion_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedReplyError):
        parse_reply(body)


def test_half_a_surrogate_pair_does_not_reach_the_files() -> None:
    assert parse_reply(reply({"content": "a\ud800b"})).text == "a?b"


def test_errors_are_read_in_every_shape() -> None:
    assert error_message(b'{"error": {"message": "no"}}') == "no"
    assert error_message(b'{"error": "no"}') == error_message(b'{"detail": "no"}') == "no"
    assert error_message(b"<html>") == "<html>" and error_message(b"") == "an empty body"
