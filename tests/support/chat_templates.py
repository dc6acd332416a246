"""Chat templates in the form of the published ones, over small real tokenizers."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
R1_SPECIALS = [EOS, "<｜User｜>", "<｜Assistant｜>", BOS, "<think>", "</think>"]
R1_DISTILL = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system='') %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}"
    "{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' + PREFILL }}{% endif %}"
)
CHATML_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
QWEN25 = (
    "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nPlease reason step by step.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
QWEN3 = QWEN25.replace("Please reason step by step.", "").replace(
    "{{ '<|im_start|>assistant\\n' }}",
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
)


def tokenizer(
    specials: list[str], template: str, *, bos: str | None = None, eos: str, adds_bos: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: every text is a sequence of bytes and special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, *specials])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[str(bos)])]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, additional_special_tokens=specials
    )
    made.chat_template = template
    return made


def r1(prefill: str = "'<think>\\n'") -> PreTrainedTokenizerFast:
    return tokenizer(R1_SPECIALS, R1_DISTILL.replace("PREFILL", prefill), bos=BOS, eos=EOS, adds_bos=True)
