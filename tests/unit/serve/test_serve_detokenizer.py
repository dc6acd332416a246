"""Text comes out of tokens output by output exactly as it would in one go, and never beyond a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.serve.detokenizer import Detokenizer, ReasoningParser


def decode(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes: characters of several bytes come in outputs."""
    return bytes(ids).decode("utf-8", "replace")


def stream(text: str, stops: Sequence[str] = ()) -> tuple[list[str], Detokenizer]:
    ids, out = list(text.encode()), Detokenizer(decode, stops)
    outputs = []
    for end in range(1, len(ids) + 1):
        outputs.append(out.push(ids[:end]))
        if out.stopped:
            break
    outputs.append(out.push(ids, last=True))
    return outputs, out


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="aé→𝄞 </think>", max_size=20))
def test_pieces_add_up_to_the_text(text: str) -> None:
    outputs, out = stream(text)
    assert "".join(outputs) == out.text == text
    assert all("\ufffd" not in output for output in outputs)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abc", max_size=20), st.lists(st.text(alphabet="abc", min_size=1, max_size=3), max_size=3))
def test_nothing_is_shown_beyond_the_first_stop_string(text: str, stops: list[str]) -> None:
    outputs, out = stream(text, stops)
    # The first stop string to be complete ends the text; of those complete at once, the one that begins first.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)]
    begins = [text[: ends[0]].find(s) for s in stops if s in text[: ends[0]]] if ends else []
    assert "".join(outputs) == out.text == (text[: min(begins)] if ends else text)
    assert out.stopped == bool(ends)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "<", "</th", "ink>", "</think>", "b"]), max_size=8))
def test_thoughts_end_at_the_first_closing_tag(parts: list[str]) -> None:
    splitter = ReasoningParser(thinking=True)
    shown = [splitter.push(part) for part in parts] + [splitter.push("", last=True)]
    before, _, after = "".join(parts).partition("</think>")
    assert ("".join(r for r, _ in shown), "".join(c for _, c in shown)) == (before, after)
    assert ReasoningParser(thinking=False).push("a</think>b") == ("", "a</think>b")
