"""TRL's GRPOTrainer on a tiny random model: the oracle of the golden comparisons."""

from __future__ import annotations

from typing import Any

import pytest

from trl_batch import BUDGET, EOS, GROUP_SIZE, LENGTHS, PAD, REWARDS, VOCABULARY, NewTrainer


@pytest.fixture(scope="module")
def new_trainer(tmp_path_factory: pytest.TempPathFactory) -> NewTrainer:
    """Builds a GRPOTrainer; importing TRL takes seconds and happens only when a test here runs."""
    trl = pytest.importorskip("trl", reason="trl is not installed (extra `dev`)", exc_type=ImportError)
    from datasets import Dataset  # type: ignore[import-untyped]
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {"<pad>": PAD, "<eos>": EOS, **{chr(ord("a") + i): 2 + i for i in range(VOCABULARY - 2)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")),
        pad_token="<pad>",
        eos_token="<eos>",
    )
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    rows = Dataset.from_dict({"prompt": ["a b"] * len(LENGTHS) * GROUP_SIZE})
    flat = [r for group in REWARDS for r in group]

    def build(**settings: Any) -> Any:
        args = trl.GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=len(flat),
            num_generations=GROUP_SIZE,
            max_completion_length=BUDGET,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            num_iterations=2,
            **settings,
        )
        trainer = trl.GRPOTrainer(
            model=Qwen2ForCausalLM(config),
            reward_funcs=[lambda completions, **_: flat],
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not run here
        trainer.model.train()
        return trainer

    return build
