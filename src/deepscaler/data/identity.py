"""What makes two problems the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from deepscaler.types import Message


def problem_id(text: str, earlier: Sequence[Message] = ()) -> str:
    """A hash of the text and the messages before it: equal problems have equal ids wherever they come from."""
    if earlier:
        text = json.dumps([*([message.role, message.content] for message in earlier), text])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def asked_text(text: str, earlier: Sequence[Message] = ()) -> str:
    """All that is asked: the turns before the last message belong to the problem, a system message does not."""
    return "\n\n".join([*(message.content for message in earlier if message.role != "system"), text])
