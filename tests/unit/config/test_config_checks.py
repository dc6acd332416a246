"""Every contradiction is refused, naming both keys and a way out that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.config.advice import warnings_for
from deepscaler.config.derived import derived
from deepscaler.config.load import RecipeError, load_recipe, resolve
from sound_recipe import SOUND

TWO = '{name="a", path="a.json"}, {name="b", path="b.json", weight=3}'
# (overrides that contradict each other, keys that must be named, overrides that show the way out)
CONTRADICTIONS = [
    (
        ['rollout.engine="vllm"', 'rollout.stop=["x"]'],
        ["rollout.engine", "rollout.stop", "rollout.stop_token_ids"],
        ['rollout.engine="torch"'],
    ),
    (
        ['rollout.engine="vllm"', "model.float32_head=true", "model.dtype=bfloat16"],
        ["rollout.engine", "model.float32_head"],
        ["model.float32_head=false"],
    ),
    (
        ["rollout.engine=vllm", "cluster.kind=torchrun"],
        ["rollout.engine", "cluster.kind"],
        ["cluster.kind=local"],
    ),
    (
        [
            "rollout.engine=vllm_server",
            'rollout.vllm_urls=["http://127.0.0.1:8000"]',
            "rollout.vllm_weights_dir=/shared",
            "cluster.kind=ray",
        ],
        ["rollout.vllm_urls", "cluster.kind", "rollout.vllm_python"],
        ["cluster.kind=local"],
    ),
    (["rollout.vllm_servers=2"], ["rollout.vllm_servers", "rollout.engine"], ["rollout.vllm_servers=1"]),
    (
        ["rollout.engine=vllm_server"],
        ["rollout.vllm_python", "rollout.vllm_urls"],
        ["rollout.vllm_python=.venv-vllm/bin/python"],
    ),
    (
        [
            "rollout.engine=vllm_server",
            "rollout.vllm_python=p",
            "rollout.vllm_weight_transfer=nccl",
            "cluster.kind=torchrun",
        ],
        ["rollout.vllm_weight_transfer", "cluster.kind"],
        ["rollout.vllm_weight_transfer=files"],
    ),
    (
        ["rollout.engine=vllm_server", "rollout.vllm_python=p", "rollout.vllm_tensor_parallel=2", "cluster.kind=ray"],
        ["rollout.vllm_tensor_parallel", "cluster.kind"],
        ["rollout.vllm_tensor_parallel=1"],
    ),
    (
        ["rollout.engine=vllm_server", 'rollout.vllm_urls=["http://127.0.0.1:8000"]'],
        ["rollout.vllm_urls", "rollout.vllm_weights_dir", "rollout.vllm_weight_transfer"],
        ["rollout.vllm_weight_transfer=nccl"],
    ),
    (
        ["rollout.engine=vllm_server", 'rollout.vllm_urls=["http://127.0.0.1:8000"]'],
        ["rollout.vllm_urls", "rollout.vllm_weights_dir"],
        ["rollout.vllm_weights_dir=/shared"],
    ),
    (
        [
            "rollout.engine=vllm_server",
            'rollout.vllm_urls=["http://127.0.0.1:8000"]',
            "rollout.vllm_weights_dir=/shared",
            'rollout.vllm_args=["--seed=1"]',
        ],
        ["rollout.vllm_args", "rollout.vllm_python", "rollout.vllm_urls"],
        ["rollout.vllm_args=[]"],
    ),
    (["model.path=some/dir"], ["model.path", "[sft]"], None),
    (["model.revision=abc"], ["model.revision", "model.path"], None),
    (
        ["sft.num_heads=6", "sft.num_kv_heads=4"],
        ["sft.num_heads", "sft.num_kv_heads"],
        ["sft.num_kv_heads=3"],
    ),
    (["sft.steps=20"], ["sft.warmup_steps", "sft.steps"], ["sft.warmup_steps=5"]),
    (
        ["data.min_operations=9", "data.max_operations=3"],
        ["data.min_operations", "data.max_operations"],
        ["data.max_operations=9"],
    ),
    (["data.num_problems=7"], ["rollout.prompts_per_step", "data.num_problems"], ["data.num_problems=8"]),
    (
        ["evaluation.set_operations=[]"],
        ["evaluation.set_operations", "data.source"],
        ["evaluation.set_operations=[3]"],
    ),
    (
        ["optimizer.mini_batch_prompts=16"],
        ["optimizer.mini_batch_prompts", "rollout.prompts_per_step", "for example 8"],
        ["optimizer.mini_batch_prompts=8"],
    ),
    (
        ["optimizer.mini_batch_prompts=3"],
        ["optimizer.mini_batch_prompts", "rollout.prompts_per_step", "for example 2"],
        ["optimizer.mini_batch_prompts=2"],
    ),
    (["stages.1.name=short"], ["stages.0.name", "stages.1.name"], ["stages.1.name=long"]),
    (
        ["stages.1.steps=1", "num_steps=6"],
        ["num_steps", "stages.1.steps", "num_steps = 5"],
        ["num_steps=5"],
    ),
    (
        ["stages.1.reset_reference=true"],
        ["stages.1.reset_reference", "algorithm.kl.coefficient"],
        ["algorithm.kl.coefficient=0.01"],
    ),
    (
        ["algorithm.truncated=soft_penalty"],
        ["algorithm.truncated", "algorithm.soft_penalty_tokens", "here 6"],
        ["algorithm.soft_penalty_tokens=6"],
    ),
    (
        ["algorithm.soft_penalty_tokens=6"],
        ["algorithm.soft_penalty_tokens", "algorithm.truncated"],
        ["algorithm.truncated=soft_penalty"],
    ),
    (
        ["algorithm.truncated=soft_penalty", "algorithm.soft_penalty_tokens=32"],
        ["algorithm.soft_penalty_tokens", "stages.0.max_completion_tokens"],
        ["algorithm.soft_penalty_tokens=31"],
    ),
    (
        ["algorithm.loss=reinforce", "algorithm.clip_low=0.1"],
        ["algorithm.clip_low", "algorithm.loss"],
        ["algorithm.loss=clipped_surrogate"],
    ),
    (
        ["algorithm.loss=reinforce", "algorithm.clip_high=0.1"],
        ["algorithm.clip_high", "algorithm.loss"],
        ["algorithm.loss=cispo"],
    ),
    (
        ["algorithm.dynamic_sampling=true", "algorithm.drop_zero_variance=true"],
        ["algorithm.dynamic_sampling", "algorithm.drop_zero_variance"],
        ["algorithm.drop_zero_variance=false"],
    ),
    (
        ["algorithm.dynamic_sampling=true", "algorithm.max_refills=0"],
        ["algorithm.dynamic_sampling", "algorithm.max_refills"],
        ["algorithm.max_refills=1"],
    ),
    (
        ["training.tokens_per_micro_batch=127"],
        [
            "data.max_prompt_tokens",
            "stages.1.max_completion_tokens",
            "training.tokens_per_micro_batch",
            "to 128",
        ],
        ["training.tokens_per_micro_batch=128"],
    ),
    (["training.context_parallel=2"], ["training.context_parallel", "cluster.kind"], ["cluster.kind=torchrun"]),
    (
        ["training.context_parallel=2", "cluster.kind=ray"],
        ["training.context_parallel", "cluster.learner_ranks"],
        ["training.context_parallel=1"],
    ),
    (
        ["training.context_parallel=5"],
        ["training.context_parallel", "one of 1, 2, 4, 8"],
        ["training.context_parallel=1"],
    ),
    (["rollout.top_p=0.9"], ["rollout.top_p", "algorithm.loss", "rollout.temperature"], ["rollout.top_p=1"]),
    (["rollout.top_k=20"], ["rollout.top_k", "algorithm.loss", "rollout.temperature"], ["rollout.top_k=0"]),
    (
        ["algorithm.importance_cap=0.5"],
        ["algorithm.importance_cap", "optimizer.learning_rate"],
        ["algorithm.importance_cap=2.0"],
    ),
    (
        ["rollout.engine=vllm", "rollout.max_policy_lag=1"],
        ["rollout.engine", "rollout.max_policy_lag"],
        ["rollout.engine=torch"],
    ),
    (
        ["cluster.kind=torchrun", "rollout.max_policy_lag=1"],
        ["cluster.kind", "rollout.max_policy_lag"],
        ["rollout.max_policy_lag=0"],
    ),
    (
        ["algorithm.importance_mask=icepop", "algorithm.importance_cap=2"],
        ["algorithm.importance_mask", "algorithm.importance_cap", "algorithm.importance_high"],
        ["algorithm.importance_mask=sequence"],
    ),
    (
        ["curriculum.kind=measured", "curriculum.window=50"],
        ["curriculum.window", "curriculum.min_stay"],
        ["curriculum.min_stay=50"],
    ),
    (["data.source=mix"], ["data.source", "data.sources"], [f"data.sources=[{TWO}]"]),
    ([f"data.sources=[{TWO}]"], ["data.sources", "data.source"], ["data.source=mix"]),
    (
        ["data.source=mix", f"data.sources=[{TWO}, {TWO}]"],
        ["data.sources.0.name", "data.sources.2.name"],
        ["data.sources.2.name=c", "data.sources.3.name=d"],
    ),
    (
        ["data.source=mix", 'data.sources=[{name="a", path="synthetic"}]'],
        ["data.sources.0.path", "data.source = 'synthetic'"],
        ["data.sources.0.path=a.json"],
    ),
    (
        ["data.source=mix", f"data.sources=[{TWO}]", 'stages.1.sources=["a", "c"]'],
        ["stages.1.sources", "data.sources", "(a, b)"],
        ['stages.1.sources=["a"]'],
    ),
    (['stages.0.sources=["a"]'], ["stages.0.sources", "data.sources (none is defined)"], None),
    (
        ["stages.1.min_difficulty=5", "stages.1.max_difficulty=3"],
        ["stages.1.min_difficulty", "stages.1.max_difficulty"],
        ["stages.1.max_difficulty=5"],
    ),
    (
        ["stages.1.shortest_prompt=40", "stages.1.longest_prompt=30"],
        ["stages.1.shortest_prompt", "stages.1.longest_prompt"],
        ["stages.1.longest_prompt=40"],
    ),
    (
        ["stages.0.longest_prompt=65"],
        ["stages.0.longest_prompt", "data.max_prompt_tokens"],
        ["data.max_prompt_tokens=65"],
    ),
    (
        ["stages.1.min_difficulty=10"],
        ["stages.1.min_difficulty", "data.max_operations"],
        ["data.max_operations=10"],
    ),
    (["stages.0.drop_solved=true"], ["stages.0.drop_solved", "[[stages]]"], ["stages.0.drop_solved=false"]),
]


@pytest.mark.parametrize(("overrides", "named", "way_out"), CONTRADICTIONS, ids=lambda v: str(v)[:40])
def test_a_contradiction_names_both_keys_and_a_way_out(
    sound: Path, overrides: list[str], named: list[str], way_out: list[str] | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(sound, overrides)
    message = str(caught.value)
    assert message.startswith(f"{sound}: ")
    for key in named:
        assert key in message
    if way_out is not None:
        load_recipe(sound, [*overrides, *way_out])


def test_the_sound_recipe_is_sound(sound: Path) -> None:
    resolved = resolve(sound)
    assert warnings_for(resolved.recipe, resolved.origins) == []


def test_a_base_model_must_come_from_somewhere(sound: Path) -> None:
    sound.write_text(SOUND.replace("[sft]\n", ""))
    with pytest.raises(RecipeError, match=r"neither model\.path nor \[sft\]"):
        load_recipe(sound)
    assert load_recipe(sound, ["model.path=some/dir", "model.revision=abc"]).sft is None


def test_a_schedule_needs_the_length_of_every_stage_but_the_last(sound: Path) -> None:
    sound.write_text(SOUND.replace("steps = 4\n", ""))
    with pytest.raises(RecipeError, match=r"stages\.0\.steps .* curriculum\.kind = 'measured'"):
        load_recipe(sound)
    assert load_recipe(sound, ["curriculum.kind=measured"]).stages[0].steps is None
    assert load_recipe(sound, ["stages.0.steps=2"]).stages[0].steps == 2


def test_clip_bounds_of_a_preset_do_not_stand_in_the_way_of_reinforce(sound: Path) -> None:
    assert load_recipe(sound, ["algorithm.loss=reinforce"]).algorithm.clip_high == 0.28


def test_a_stage_of_short_prompts_needs_less_room(sound: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.1\.longest_prompt \+ stages\.1\.max_completion_tokens = 96"):
        load_recipe(sound, ["training.tokens_per_micro_batch=95", "stages.1.longest_prompt=32"])
    load_recipe(sound, ["training.tokens_per_micro_batch=96", "stages.1.longest_prompt=32"])


def test_shares_of_a_mixture_are_explained(sound: Path) -> None:
    resolved = resolve(sound, ["data.source=mix", f"data.sources=[{TWO}]"])
    sizes = {size.name: size.value for size in derived(resolved.recipe)}
    assert (sizes["prompts per step from a"], sizes["prompts per step from b"]) == (2, 6)
    assert resolved.origins["data.sources.1.weight"] == "--set"


def test_several_contradictions_are_told_together(sound: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(sound, ["rollout.top_k=5", "optimizer.mini_batch_prompts=3"])
    assert len(str(caught.value).splitlines()) == 2
