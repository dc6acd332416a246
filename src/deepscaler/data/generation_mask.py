"""The assistant's text by a chat template that marks it: `{% generation %} … {% endgeneration %}`.

transformers makes a mask of tokens for such templates; here the tags are rewritten so that the template writes a mark
on either side of the text, which is exact before there is any token.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from deepscaler.data.special_tokens import RenderedText
from deepscaler.data.templates import render_all, template_text

_NONCE = secrets.token_hex(6)  # so that no content can hold a mark
_START, _END = f"\ue0f2{_NONCE}", f"\ue0f3{_NONCE}"
_TURN = re.compile(f"{_START}(.*?){_END}", re.DOTALL)
_TAG = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


def has_generation_tag(tokenizer: Any) -> bool:
    """Whether the chat template marks what the assistant wrote. Raises ValueError where there is none."""
    return _TAG.search(template_text(tokenizer)) is not None


def marked_turns(
    tokenizer: Any, messages: Sequence[dict[str, str]], options: Mapping[str, object]
) -> list[tuple[str, bool]]:
    """(text, whether the assistant wrote it) of each part of a rendered conversation, in order.

    The texts have the marks of `special_tokens`.
    """
    template = _TAG.sub(_mark_tag, template_text(tokenizer))
    chosen = {**options, "add_generation_prompt": False, "chat_template": template}
    text = render_all(tokenizer, [messages], chosen, asks=False)[0]
    marked = text.marked if isinstance(text, RenderedText) else text
    pieces = _TURN.split(marked)  # every second one is a turn
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]


def _mark_tag(found: re.Match[str]) -> str:
    """Two blocks and a mark between them, so that white space on either side goes as it does around the tag."""
    before, is_end, after = found.groups()
    if is_end:
        return f"{{%{before} endif %}}{{{{ '{_END}' }}}}{{% endif {after}%}}"
    return f"{{%{before} if true %}}{{{{ '{_START}' }}}}{{% if true {after}%}}"
