"""Prompts through the tokenizer's chat template, which came with the model and is not trusted.

transformers renders templates in jinja2's ImmutableSandboxedEnvironment without a loader: no attribute that leads into
Python, no file. What the sandbox lets through is stopped here: a loop without end, a number too large to compute.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, ClassVar

import jinja2
import numpy as np
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.special_tokens import RenderedText, control_tokens
from deepscaler.data.time_limit import map_within
from deepscaler.types import IntArray, Problem

OPEN_THINK = "<think>"
RENDER_LIMIT_S = 5.0  # a template renders in well under a millisecond
MAX_ADDED_CHARACTERS = 100_000  # system prompts of known templates stay below 10,000
MAX_NUMBER = 100_000  # jinja2's own limit for range()
# Variables that transformers gives every template, or takes as arguments.
_GIVEN = frozenset({
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception",
    "strftime_now",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class EncodedProblem:
    problem: Problem
    prompt_ids: IntArray


@dataclass(frozen=True, slots=True)
class TemplateFingerprint:
    """The properties of a chat template that shape a result, recorded with it."""

    sha256: str
    thinking_prefilled: bool
    depends_on_date: bool


def encode_problem(tokenizer: Any, problem: Problem, prompt_format: PromptFormat) -> IntArray:
    """Prompt ids int32 of one problem. Raises ValueError as `render_prompt` does."""
    text = render_messages(tokenizer, prompt_format.messages(problem), prompt_format.template)
    return _encode(tokenizer, [text])[0]


def render_prompt(tokenizer: Any, question: str, options: Mapping[str, object] | None = None) -> tuple[IntArray, bool]:
    """(prompt ids int32, whether the template opened `<think>` for the model).

    Raises ValueError when there is no template, when it fails or does not end, drops the question, or puts two BOS.
    """
    text = render_text(tokenizer, question, options)
    return _encode(tokenizer, [text])[0], text.rstrip().endswith(OPEN_THINK)


def encode_rendered(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of rendered texts, all in one call; what contents hold of control tokens' text is encoded as text.

    Raises ValueError where the tokenizer cannot do so.
    """
    # The template writes the special tokens itself: letting the tokenizer add its own would double the BOS.
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    for index, text in enumerate(texts):
        if isinstance(text, RenderedText):
            encoded[index] = control_tokens(tokenizer).encode(tokenizer, text.marked)
    return encoded


def _encode(tokenizer: Any, texts: list[str]) -> list[IntArray]:
    """Prompt ids of rendered texts. Raises ValueError for a prompt that begins with two BOS."""
    encoded = encode_rendered(tokenizer, texts)
    bos = tokenizer.bos_token_id
    if bos is not None and any(list(ids[:2]) == [bos, bos] for ids in encoded):
        raise ValueError(
            f"the chat template puts {tokenizer.bos_token!r} (BOS) twice at the start of the prompt, which the model "
            "has never seen; remove one from the template"
        )
    return [np.array(ids, dtype=np.int32) for ids in encoded]


def render_text(tokenizer: Any, question: str, options: Mapping[str, object] | None = None) -> str:
    """The prompt as text, special tokens written out. Raises ValueError as `render_prompt` does."""
    return render_messages(tokenizer, _asking(question), options)


def _asking(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def render_messages(
    tokenizer: Any, messages: Sequence[dict[str, str]], options: Mapping[str, object] | None = None
) -> str:
    """As `render_text`, for a conversation of `role` and `content` whose last message is the question.

    A RenderedText where a content holds the text of a control token: encode it with `encode_rendered`.
    options: variables of the template, and those of transformers' `apply_chat_template`.
    """
    return render_all(tokenizer, [messages], options)[0]


def template_variables(tokenizer: Any) -> frozenset[str]:
    """What the template reads and nobody gives it by itself, such as `enable_thinking`. Raises ValueError."""
    template = template_text(tokenizer)
    _refuse_bombs(template)
    environment = _environment()
    read = meta.find_undeclared_variables(environment.parse(template))
    return frozenset(read - environment.globals.keys() - _GIVEN - set(tokenizer.special_tokens_map))


def check_template_options(tokenizer: Any, options: Mapping[str, object], key: str) -> None:
    """Raises ValueError for an option that the chat template does not read. key: of the settings, for the message."""
    known = sorted(template_variables(tokenizer)) if options else []
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"{key}.{name}: the model's chat template reads no variable {name!r}, so setting it would do nothing; "
                f"{hint}It reads: {', '.join(known) or 'none'}. Remove {key}.{name}"
            )
        if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
            raise ValueError(f"{key}.{name} = {value} is above {MAX_NUMBER}, which no prompt needs; lower it")


def render_all(
    tokenizer: Any,
    conversations: Iterable[Sequence[dict[str, str]]],
    options: Mapping[str, object] | None = None,
    *,
    asks: bool = True,
) -> list[str]:
    """The text of each conversation, for each of which the template has `RENDER_LIMIT_S`. Raises ValueError.

    asks: whether the last message must be in the text as it is; a template may leave out what an assistant thought.
    """
    _refuse_bombs(template_text(tokenizer))
    controls = control_tokens(tokenizer)
    chosen: dict[str, object] = {"add_generation_prompt": True, **(options or {})}

    def render(messages: Sequence[dict[str, str]]) -> str:
        marked = [controls.mark_message(message) for message in messages]
        text = tokenizer.apply_chat_template(marked, tokenize=False, **chosen)
        _refuse_wrong(text, marked, asks=asks)
        shown = controls.unmarked(text)
        return text if shown == text else RenderedText(shown, text)

    try:
        return map_within(RENDER_LIMIT_S, render, conversations)
    except _WrongTextError:
        raise
    # What a template's own code can raise: jinja2's errors, and those of the Python operations it may use.
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TimeoutError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"the tokenizer's chat template fails ({type(error).__name__}: {error}); repair the model's "
            "chat_template.jinja, or take the one of the model it was made from"
        ) from error


class _WrongTextError(ValueError):
    """The template ends without an error, but its text is no prompt."""


def _refuse_wrong(text: object, messages: Sequence[dict[str, str]], *, asks: bool) -> None:
    limit = sum(len(part) for message in messages for part in message.values()) + MAX_ADDED_CHARACTERS
    if not isinstance(text, str) or len(text) > limit:
        raise _WrongTextError(
            f"the chat template adds more than {MAX_ADDED_CHARACTERS} characters to a prompt; repair it"
        )
    if asks and messages[-1]["content"].strip() not in text:
        raise _WrongTextError("the chat template leaves the question out or changes it; repair the model's template")
    lost = [m["role"] for m in messages if m["role"] in ("system", "user") and m["content"].strip() not in text]
    if lost:
        raise _WrongTextError(
            f"the chat template leaves out or changes a {lost[0]} message of the conversation; repair the model's "
            "template, or put what it says into the question"
        )


def decoder(tokenizer: Any, stop_ids: frozenset[int], stop: Sequence[str] = ()) -> Callable[[IntArray], str]:
    """Completion ids -> text, without the stop token at the end, and up to the first stop string."""

    def decode(ids: IntArray) -> str:
        kept = ids[:-1] if len(ids) and int(ids[-1]) in stop_ids else ids
        text = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found = [at for end in stop if (at := text.find(end)) >= 0]
        return text[: min(found)] if found else text

    return decode


def template_text(tokenizer: Any) -> str:
    """The template that a prompt is rendered with; of several named ones that is `default`. Raises ValueError."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ValueError("the tokenizer has no chat template; put the model's chat_template.jinja beside it")
    return template


def template_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of the chat template in use."""
    return hashlib.sha256(template_text(tokenizer).encode("utf-8", "surrogatepass")).hexdigest()


def template_fingerprint(tokenizer: Any, options: Mapping[str, object] | None = None) -> TemplateFingerprint:
    """For run.json and the settings of an evaluation. Raises ValueError for a template that cannot be used.

    options: variables that the template is given.
    """
    _, prefilled = render_prompt(tokenizer, "x", options)
    template = template_text(tokenizer)
    return TemplateFingerprint(template_hash(tokenizer), prefilled, "strftime_now" in template)


def encode_problems(
    problems: Sequence[Problem], tokenizer: Any, prompt_format: PromptFormat, max_prompt_tokens: int
) -> tuple[list[EncodedProblem], list[Problem]]:
    """(problems that fit with their ids, problems dropped as too long). Raises ValueError when none fits."""
    kept, dropped = [], []
    texts = render_all(tokenizer, map(prompt_format.messages, problems), prompt_format.template)
    for problem, ids in zip(problems, _encode(tokenizer, texts), strict=True):
        if len(ids) <= max_prompt_tokens:
            kept.append(EncodedProblem(problem, ids))
        else:
            dropped.append(problem)
    if not kept:
        raise ValueError(
            f"every prompt ({len(dropped)}) exceeds data.max_prompt_tokens = {max_prompt_tokens}; raise it"
        )
    return kept, dropped


class _GenerationTag(Extension):
    """`{% generation %}`, which transformers adds to the language to mark what an assistant wrote."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """The language of chat templates, to read one with and not to render it."""
    return jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _GenerationTag])


# A field of six or more digits' width, as `%` and `format` read it.
_WIDTH = re.compile(r"%[-+ #0]*\d{6,}|\{[^{}]{0,20}:[^{}]{0,5}\d{6,}")


@lru_cache(maxsize=8)
def _refuse_bombs(template: str) -> None:
    """Refuse what one line of a template can do beyond any watching: powers, and numbers above `MAX_NUMBER`."""
    try:
        tree = _environment().parse(template)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        raise ValueError(
            f"the tokenizer's chat template is no valid jinja2 ({error}); repair the model's chat_template.jinja"
        ) from error
    power = next(tree.find_all(nodes.Pow), None)
    numbers = [c for c in tree.find_all(nodes.Const) if isinstance(c.value, int | float) and abs(c.value) > MAX_NUMBER]
    widths = [c for c in tree.find_all(nodes.Const) if isinstance(c.value, str) and _WIDTH.search(c.value)]
    culprit = power or next(iter([*numbers, *widths]), None)
    if culprit is not None:
        raise ValueError(
            f"the tokenizer's chat template, line {culprit.lineno}, computes a power or holds a number above "
            f"{MAX_NUMBER}, which no prompt needs and which may never end; repair the model's chat_template.jinja"
        )
