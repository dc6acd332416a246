"""People's traces: conversations whose assistant turns are to be learned, from a file, a directory or the hub.

    {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
    {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]}        ShareGPT
    {"prompt": "1+1?", "completion": "2"}                       either may be a list of messages

Errors name file, row and field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepscaler.config.sections.supervised import TracesSection
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.sources.broken_text import fault_of
from deepscaler.data.sources.conversations import ConversationError, conversation
from deepscaler.data.sources.layouts import shown
from deepscaler.data.sources.load import locate
from deepscaler.data.sources.readers import DataError, read_rows
from deepscaler.types import Message

SHAREGPT_FIELD = "conversations"


@dataclass(frozen=True, slots=True)
class Trace:
    """messages: what is asked and answered, at least one of them the assistant's and the last one too.

    where: `FILE, row N`, for messages.
    """

    where: str
    messages: tuple[Message, ...]


def load_traces(source: str, section: TracesSection) -> list[Trace]:
    """Every row of a source. Raises DataError for the first row that cannot be learned from."""
    prompt_format = PromptFormat.of(section, section.instruction)
    traces = []
    for file in locate(source):
        for number, row in enumerate(read_rows(file.path)):
            where = f"{file.name}, row {number}"
            traces.append(Trace(where, prompt_format.opened(_messages(where, row, section, prompt_format))))
    if not traces:
        raise DataError(f"{source} holds no rows")
    return traces


def _messages(where: str, row: object, section: TracesSection, prompt_format: PromptFormat) -> tuple[Message, ...]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object with fields, found {shown(row)}")
    field = next((name for name in (section.messages_field, SHAREGPT_FIELD) if row.get(name) is not None), None)
    if field is not None:
        messages = _conversation(where, field, row[field])
        if messages is None:
            raise DataError(f"{where}, field {field!r}: expected a list of messages, found {shown(row[field])}")
    else:
        messages = _prompt_and_completion(where, row, section, prompt_format)
        field = section.completion_field
    return _checked(where, field, messages)


def _prompt_and_completion(
    where: str, row: Mapping[str, object], section: TracesSection, prompt_format: PromptFormat
) -> tuple[Message, ...]:
    parts: list[Message] = []
    for field, role in ((section.prompt_field, "user"), (section.completion_field, "assistant")):
        value = row.get(field)
        if value is None:
            raise DataError(
                f"{where}: no field {section.messages_field!r} or {SHAREGPT_FIELD!r}, and none called {field!r}; it "
                f"has {', '.join(map(str, row))}. Name the right ones with data.messages_field, or data.prompt_field "
                "and data.completion_field"
            )
        messages = _conversation(where, field, value)
        if messages is None and not isinstance(value, str):
            raise DataError(f"{where}, field {field!r}: expected text or a list of messages, found {shown(value)}")
        if messages is None:
            text = str(value)
            asks = role == "user"
            content = prompt_format.user_message(text, prompt_format.instruction) if asks else text
            messages = (Message(role, content),)
        parts += messages
    return tuple(parts)


def _conversation(where: str, field: str, value: object) -> tuple[Message, ...] | None:
    try:
        return conversation(value)
    except ConversationError as error:
        raise DataError(f"{where}, field {field!r}: {error}") from error


def _checked(where: str, field: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages up to the last of the assistant's: what comes after it teaches nothing."""
    last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
    if last < 0:
        roles = ", ".join(message.role for message in messages) or "no message"
        raise DataError(
            f"{where}, field {field!r}: no turn of the assistant, so there is nothing to learn (roles: {roles}); add "
            "the answer, or remove the row"
        )
    for number, message in enumerate(messages[: last + 1]):
        if fault := fault_of(message.content):
            raise DataError(f"{where}, field {field!r}, message {number}: {fault}; write the text again")
        if message.role == "assistant" and not message.content.strip():
            raise DataError(f"{where}, field {field!r}: message {number}, the assistant's, is empty; fill it in")
    return messages[: last + 1]
