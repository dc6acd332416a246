"""The small replica's tokenizer: a real Qwen2 tokenizer whose vocabulary is printable ASCII and a few words.

It is a `Qwen2Tokenizer` without merges, not a tokenizer of our own making, because transformers 5 loads every
directory with model_type qwen2 through that class, whatever its tokenizer_config.json says: another pre-tokenizer or
decoder would silently be replaced on loading.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import AddedToken, Qwen2Tokenizer

PAD, EOS, USER, ASSISTANT = "<pad>", "<eos>", "<user>", "<assistant>"
MARKERS = ("<think>", "</think>", "\\boxed{")
PRINTABLE = [chr(code) for code in range(33, 127)]
# How byte-level BPE writes the bytes of a line break and a space.
WHITESPACE = ["\u010a", "\u0120"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<user>' if message['role'] == 'user' else '<assistant>' }}{{ message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>{% endif %}"
)


def build_tokenizer(words: Sequence[str]) -> Qwen2Tokenizer:
    """One token per printable ASCII character, one per marker, and one per word in `words`.

    Decoding gives back exactly the text that was encoded. Characters outside ASCII have no token and are dropped.
    """
    specials = [PAD, EOS, USER, ASSISTANT]
    words = [*MARKERS, *words]
    vocabulary = [*specials, *words, *WHITESPACE, *PRINTABLE]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (USER, ASSISTANT)])
    # Not special: `</think>` and `\boxed{` are part of the answer and must survive decoding.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in words])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
