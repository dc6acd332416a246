"""Texts of control tokens inside a message stay text: only the chat template writes tokens that end or begin a turn.

A tokenizer takes `<|im_end|>` for the token wherever it occurs, in a problem that quotes a chat log too. So contents
are rendered with marks in such places, and the rendered text is encoded by a copy of the tokenizer that knows the
control tokens under other names, of which no content can hold one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from deepscaler.json_text import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NONCE = secrets.token_hex(6)  # names that no text can hold by chance or on purpose
_TEXT_MARK = f"\ue0f0{_NONCE}t%d\ue0f1"  # in a content, for the text of control token number %d
_TOKEN_MARK = f"\ue0f0{_NONCE}c%d\ue0f1"  # what the copy of the tokenizer calls the token
_BRACKETED = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]+\]")
_THOUGHTS = frozenset({"<think>", "</think>"})


class RenderedText(str):
    """A rendered prompt. marked: the same text with marks where contents hold the text of a control token."""

    marked: str

    def __new__(cls, text: str, marked: str) -> RenderedText:
        made = super().__new__(cls, text)
        made.marked = marked
        return made


def control_tokens(tokenizer: Any) -> ControlTokens:
    """Those of a tokenizer, found once for as long as its vocabulary does not grow."""
    return _control_tokens(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Any, num_tokens: int) -> ControlTokens:
    return ControlTokens(tokenizer)


class ControlTokens:
    """The tokens of a tokenizer that steer a conversation: its special ones, and added ones such as `<think>`."""

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        self.texts = [t.content for t in added.values() if t.content and (t.special or _BRACKETED.fullmatch(t.content))]
        self._special = {t.content for t in added.values() if t.special}
        self._number = {text: number for number, text in enumerate(self.texts)}
        longest_first = sorted(map(re.escape, self.texts), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first) or r"(?!)")

    def mark_message(self, message: Mapping[str, str]) -> dict[str, str]:
        """The message with marks. An assistant's thoughts keep their tokens, which the template may look for."""
        own = self._special - _THOUGHTS if message.get("role") == "assistant" else None
        return {
            key: self._mark(value, own) if key != "role" and isinstance(value, str) else value
            for key, value in message.items()
        }

    def _mark(self, text: str, only: set[str] | None) -> str:
        def mark(found: re.Match[str]) -> str:
            return _TEXT_MARK % self._number[found[0]] if only is None or found[0] in only else found[0]

        return self._pattern.sub(mark, text)

    def unmarked(self, text: str) -> str:
        """The text with the contents' own words in place of the marks."""
        if _NONCE not in text:
            return text
        return re.sub(_TEXT_MARK.replace("%d", r"(\d+)"), lambda found: self.texts[int(found[1])], text)

    def encode(self, tokenizer: Any, marked: str) -> list[int]:
        """Token ids of a rendered text with marks. Raises ValueError where the tokenizer cannot write them as text."""
        tokens = [_TOKEN_MARK % number for number in range(len(self.texts))]
        named, count = self._pattern.subn(lambda found: tokens[self._number[found[0]]], marked)
        plain, old_ids = _plain_tokenizer(tokenizer, tuple(self.texts))
        found: list[int] = plain.encode(self.unmarked(named), add_special_tokens=False).ids
        ids = [int(old_ids.get(index, index)) for index in found]
        control = {tokenizer.convert_tokens_to_ids(text) for text in self.texts}
        if sum(index in control for index in ids) != count:
            raise _not_as_text(self.unmarked(marked))
        return ids


def _not_as_text(text: str) -> ValueError:
    return ValueError(
        "this model's tokenizer cannot write the text of its control tokens as ordinary text, and a prompt holds some "
        f"({text[:200]!r}); remove that problem"
    )


@lru_cache(maxsize=2)
def _plain_tokenizer(tokenizer: Any, controls: Sequence[str]) -> tuple[Tokenizer, dict[int, int]]:
    """(the tokenizer with its control tokens renamed, ids of it -> ids of the original where they differ)."""
    from tokenizers import AddedToken, Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise _not_as_text(controls[0])
    names = {text: _TOKEN_MARK % number for number, text in enumerate(controls)}
    state = parse_json(backend.to_str())
    added, state["added_tokens"] = state["added_tokens"], []
    state |= {"post_processor": None, "truncation": None, "padding": None}
    _rename(state["model"], names)
    plain = Tokenizer.from_str(json.dumps(state))
    old_ids: dict[int, int] = {}
    for token in added:
        old_id, content = int(token.pop("id")), str(token.pop("content"))
        name = names.get(content, content)
        plain.add_tokens([AddedToken(name, **(token | ({"normalized": False} if content in names else {})))])
        new_id = plain.token_to_id(name)
        assert new_id is not None
        old_ids[new_id] = old_id
    return plain, old_ids


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Control tokens that the vocabulary holds as well get their new names there, so that no text reaches them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
