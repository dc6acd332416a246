"""Traces as token ids, with the tokens that the assistant would have sampled marked: exactly what inference sees.

A turn's prompt is the conversation before it, rendered as for sampling (`add_generation_prompt`); its completion is
what the template adds to that for the turn, up to and with the token that ends it. Where rendering the turn does not
continue its prompt (templates of reasoning models drop earlier thoughts, or open `<think>` themselves), the completion
is the turn's own text and the end token. A conversation becomes one sequence where every prompt continues the
sequence before it, else one sequence for each turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscaler.config.sections.supervised import LossOn
from deepscaler.data.generation_mask import has_generation_tag, marked_turns
from deepscaler.data.prompt_format import as_dicts
from deepscaler.data.sources.readers import DataError
from deepscaler.data.special_tokens import RenderedText, control_tokens
from deepscaler.data.stopping import turn_end_ids
from deepscaler.data.templates import OPEN_THINK, encode_rendered, render_all
from deepscaler.data.traces import Trace
from deepscaler.types import IntArray, Message

CLOSE_THINK = "</think>"
Part = tuple[str, bool]  # text with marks (special_tokens), whether the assistant wrote it


@dataclass(frozen=True, slots=True)
class EncodedTrace:
    """ids: int32 [T]. supervised: bool [T], the tokens that are learned; never the first. where: of the trace."""

    where: str
    ids: IntArray
    supervised: NDArray[np.bool_]


class TraceEncoder:
    """stop_ids: every token that ends a completion. options: variables of the chat template.

    Raises ValueError for a model of which no token ends a turn.
    """

    def __init__(
        self, tokenizer: Any, stop_ids: frozenset[int], options: Mapping[str, object], loss_on: LossOn = "all"
    ) -> None:
        self._tokenizer, self._options, self._loss_on = tokenizer, dict(options), loss_on
        self._controls = control_tokens(tokenizer)
        turn_end = sorted(turn_end_ids(tokenizer) & stop_ids)
        found = [str(tokenizer.decode([index])) for index in (*turn_end, *sorted(stop_ids - set(turn_end)))]
        self._ends = [text for text in found if text in self._controls.texts]
        if not self._ends:
            raise ValueError(
                "the model's files name no special token that ends an answer (eos_token), so a fine-tuned model could "
                "not learn to stop; name one in its tokenizer_config.json"
            )

    def encode(self, traces: Sequence[Trace]) -> list[EncodedTrace]:
        """The sequences of all traces, in order. Raises DataError for a trace that the template cannot hold."""
        if has_generation_tag(self._tokenizer):
            sequences = [(trace.where, parts) for trace in traces for parts in self._by_mask(trace)]
        else:
            prompts, wholes = self._rendered(traces)
            sequences = [
                (trace.where, parts)
                for trace, before, after in zip(traces, prompts, wholes, strict=True)
                for parts in self._by_prefix(trace, before, after)
            ]
        return [self._encoded(where, parts) for where, parts in sequences]

    def _turns(self, trace: Trace) -> list[int]:
        turns = [i for i, message in enumerate(trace.messages) if message.role == "assistant"]
        return turns if self._loss_on == "all" else turns[-1:]

    def _rendered(self, traces: Sequence[Trace]) -> tuple[list[list[str]], list[list[str]]]:
        """Per trace and turn: (texts before the turn, texts with it), with marks."""
        cuts = [(trace, turn) for trace in traces for turn in self._turns(trace)]
        before = self._render([trace.messages[:turn] for trace, turn in cuts], opens=True)
        after = self._render([trace.messages[: turn + 1] for trace, turn in cuts], opens=False)
        counts = [len(self._turns(trace)) for trace in traces]
        return _grouped(before, counts), _grouped(after, counts)

    def _render(self, conversations: Sequence[tuple[Message, ...]], *, opens: bool) -> list[str]:
        options = {**self._options, "add_generation_prompt": opens}
        texts = render_all(self._tokenizer, map(as_dicts, conversations), options, asks=False)
        return [text.marked if isinstance(text, RenderedText) else text for text in texts]

    def _by_mask(self, trace: Trace) -> list[list[Part]]:
        """One sequence, with the turns where the template says that they are (`{% generation %}`)."""
        parts = marked_turns(self._tokenizer, as_dicts(trace.messages), self._options)
        if not any(is_turn and text for text, is_turn in parts):
            raise DataError(
                f"{trace.where}: the chat template marks no text as the assistant's ({{% generation %}}); repair it"
            )
        if self._loss_on == "last":
            last = max(i for i, (_, is_turn) in enumerate(parts) if is_turn)
            parts = [(text, is_turn and i == last) for i, (text, is_turn) in enumerate(parts)]
        return [self._with_ends(parts)]

    def _with_ends(self, parts: Sequence[Part]) -> list[Part]:
        """The parts with the token that ends a turn in the turn, and what follows it outside."""
        found: list[Part] = []
        held = list(parts)
        for index, (text, is_turn) in enumerate(held):
            until = self._until_end(text) if is_turn else None
            follows = held[index + 1][0] if index + 1 < len(held) else ""
            end = next((end for end in self._ends if follows.startswith(end)), "") if is_turn else ""
            if until is not None:
                found += [(text[:until], True), (text[until:], False)]
            elif end:
                found.append((text + end, True))
                held[index + 1] = (follows.removeprefix(end), False)
            else:
                is_last = is_turn and not "".join(later for later, _ in held[index + 1 :]).strip()
                found.append((text.rstrip() + self._ends[0] if is_last else text, is_turn))
        return found

    def _until_end(self, text: str) -> int | None:
        """Where the last token that ends a turn ends in a text."""
        ends = [at + len(end) for end in self._ends if (at := text.rfind(end)) >= 0]
        return max(ends, default=None)

    def _by_prefix(self, trace: Trace, before: Sequence[str], after: Sequence[str]) -> list[list[Part]]:
        turns = self._turns(trace)
        written = [self._continuation(b, a, trace.messages[t]) for b, a, t in zip(before, after, turns, strict=True)]
        texts = [text for text in written if text is not None]
        if len(texts) == len(turns) and all(map(str.startswith, before[1:], after)):
            return [_joined(before, texts)]
        own = [
            self._own_text(trace, prompt, trace.messages[turn]) if text is None else text
            for text, prompt, turn in zip(written, before, turns, strict=True)
        ]
        return [[(prompt, False), (text, True)] for prompt, text in zip(before, own, strict=True)]

    def _continuation(self, prompt: str, whole: str, message: Message) -> str | None:
        """What the template writes for a turn after its prompt, up to the end token; None where it does not."""
        if not whole.startswith(prompt):
            return None
        text = whole[len(prompt) :]
        until = self._until_end(text)
        if until is None or (CLOSE_THINK in message.content and CLOSE_THINK not in text):
            return None
        return text[:until]

    def _own_text(self, trace: Trace, prompt: str, message: Message) -> str:
        """A turn as the model would have sampled it after its prompt, and the end token."""
        content = self._controls.mark_message({"role": "assistant", "content": message.content})["content"]
        thinks = CLOSE_THINK in content
        tail = prompt.rstrip()
        if tail.endswith(OPEN_THINK):
            if not thinks:
                raise DataError(
                    f"{trace.where}: the chat template opens {OPEN_THINK} for the model, but this answer has no "
                    f"{CLOSE_THINK}; add the thoughts, switch thinking off ([data.template], where the template has a "
                    "switch), or use another template"
                )
            gap = prompt[len(tail) :]
            rest = content.lstrip()
            content = rest.removeprefix(OPEN_THINK) if rest.startswith(OPEN_THINK) else content
            content = content.removeprefix(gap) if gap else content
        elif tail.endswith(CLOSE_THINK) and thinks:
            raise DataError(
                f"{trace.where}: the chat template closes {CLOSE_THINK} before the answer, but this one thinks; switch "
                "thinking on ([data.template]), or remove the thoughts from the trace"
            )
        return content.rstrip() + self._ends[0]

    def _encoded(self, where: str, parts: Sequence[Part]) -> EncodedTrace:
        parts = [(text, is_turn) for text, is_turn in parts if text]
        pieces = self._piece_ids([text for text, _ in parts])
        ids = np.array([i for piece in pieces for i in piece], np.int32)
        flags = [is_turn for _, is_turn in parts]
        supervised = np.repeat(np.array(flags, np.bool_), [len(piece) for piece in pieces])
        supervised[:1] = False  # nothing predicts the first token
        if not supervised.any():
            raise DataError(f"{where}: the assistant's turns hold no token to learn; fill them in, or remove the row")
        end = int(np.flatnonzero(supervised)[-1]) + 1
        return EncodedTrace(where, ids[:end], supervised[:end])

    def _piece_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each part: of the whole text where its tokens end where the parts do, else each on its own.

        The latter is what sampling does, which encodes the prompt alone; the former is the same and besides right for
        tokenizers that write a space before every text.
        """
        ends = ["".join(texts[: index + 1]) for index in range(len(texts))]
        until = encode_rendered(self._tokenizer, [self._text(end) for end in ends])
        if all(list(longer[: len(shorter)]) == list(shorter) for shorter, longer in pairwise(until)):
            starts = [0, *(len(ids) for ids in until)]
            return [list(ids[start:]) for ids, start in zip(until, starts, strict=False)]
        return [list(ids) for ids in encode_rendered(self._tokenizer, [self._text(text) for text in texts])]

    def _text(self, marked: str) -> str:
        shown = self._controls.unmarked(marked)
        return shown if shown == marked else RenderedText(shown, marked)


def _grouped(values: Sequence[str], counts: Sequence[int]) -> list[list[str]]:
    ends = np.cumsum([0, *counts])
    return [list(values[start:end]) for start, end in pairwise(ends.tolist())]


def _joined(before: Sequence[str], texts: Sequence[str]) -> list[Part]:
    """All turns of a conversation in one sequence: between two of them is what the later prompt adds."""
    parts: list[Part] = []
    used = 0
    for prompt, text in zip(before, texts, strict=True):
        parts += [(prompt[used:], False), (text, True)]
        used = len(prompt) + len(text)
    return parts
