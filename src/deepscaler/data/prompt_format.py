"""A problem as the messages that a chat template is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deepscaler.config.sections.prompt import PromptSettings, TemplateValue
from deepscaler.types import Message, Problem

PROBLEM, INSTRUCTION = "{problem}", "{instruction}"


@dataclass(frozen=True)
class PromptFormat:
    """How every prompt is made.

    instruction: follows the problem after a space (docs/recipe.md). prompt_template: a text with `{problem}` in place
    of that, and `{instruction}` where it is wanted. system_prompt: of a conversation without a system message.
    template: variables of the chat template.
    """

    instruction: str = ""
    system_prompt: str = ""
    prompt_template: str = ""
    template: Mapping[str, TemplateValue] = field(default_factory=dict)

    @staticmethod
    def of(section: PromptSettings, instruction: str) -> PromptFormat:
        """Of a recipe's section."""
        return PromptFormat(instruction, section.system_prompt, section.prompt_template, section.template)

    def question(self, problem: Problem) -> str:
        """The user message that asks a problem.

        A problem's own instruction takes the place of `instruction`; one that begins with a line break needs no space.
        """
        if problem.instruction is None or self.prompt_template:
            own = problem.instruction
            return self.user_message(problem.prompt, self.instruction if own is None else own)
        gap = "" if problem.instruction.startswith("\n") or not problem.instruction else " "
        return f"{problem.prompt}{gap}{problem.instruction}"

    def user_message(self, text: str, instruction: str) -> str:
        if not self.prompt_template:
            return f"{text} {instruction}" if instruction else text
        # The problem last: a text that holds `{instruction}` is not to be filled in.
        return self.prompt_template.replace(INSTRUCTION, instruction).replace(PROBLEM, text)

    def opened(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages, after the system prompt where they have no system message."""
        if not self.system_prompt or any(message.role in ("system", "developer") for message in messages):
            return messages
        return (Message("system", self.system_prompt), *messages)

    def with_system_prompt(self, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
        """As `opened`, of messages as templates take them."""
        if not self.system_prompt or any(message["role"] in ("system", "developer") for message in messages):
            return list(messages)
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """What the model is shown of a problem: the messages before it, and the user's that asks it."""
        asked = Message("user", self.question(problem))
        return as_dicts((*self.opened(problem.earlier), asked))


def as_dicts(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
