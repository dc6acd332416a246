"""A body is JSON in UTF-8 whose texts are Unicode, or the request is refused with status 400."""

from __future__ import annotations

import pytest

from deepscaler.serve.request_body import parse_body
from deepscaler.serve.validation import RequestError


@pytest.mark.parametrize(
    "body",
    [
        rb'{"prompt": "a\ud83d"}',
        rb'{"a": [{"b": ["\uDC00 x"]}]}',
        rb'{"\udfff": 1}',
        rb'{"prompt": "\ude00\ud83d"}',
    ],
)
def test_half_of_a_surrogate_pair_is_no_text(body: bytes) -> None:
    with pytest.raises(RequestError, match="lone surrogate") as caught:
        parse_body(body)
    assert caught.value.status == 400


def test_whole_pairs_and_escaped_backslashes_are_text() -> None:
    assert parse_body(rb'{"a": "\ud83d\ude00", "b": "\\ud83d"}') == {"a": "\U0001f600", "b": r"\ud83d"}


@pytest.mark.parametrize(
    "body",
    [b"\xed\xa0\xbd", b'{"a": "\xff"}', '{"a": 1}'.encode("utf-16"), b'{"a": NaN}', b"[" * 200_000, b"9" * 5000, b""],
)
def test_what_is_no_json_in_utf8_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON") as caught:
        parse_body(body)
    assert caught.value.status == 400
