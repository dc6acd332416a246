"""GRPO written out by hand, step by step, over the public parts of the package. Runs on a laptop in a few minutes.

    python examples/loop_by_hand.py                      # a new small model, warmed up, then 40 steps of GRPO
    python examples/loop_by_hand.py --steps 10 --seed 2
    python examples/loop_by_hand.py --model runs/bases/NAME    # a model directory, such as one made by `deepscaler sft`

The program's own loop (loop/loop.py) does the same and adds what a real run needs: checkpoints, alarms,
metrics, several processes, stages. The loop is in this process; only grading has one of its own.

A problem such as `37 a+25` asks for the last two digits of 37 + 25 (`a` names the operation). The model writes its
work, `</think>` and `\\boxed{62}`. The warm-up shows it worked solutions, some of them wrong; GRPO then finds out which
ways of working give right answers.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepscaler import cpu
from deepscaler.algorithms.batch import make_samples
from deepscaler.cluster.model_directory import open_model
from deepscaler.config import Recipe
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.evaluation import EvaluationSection
from deepscaler.config.sections.model import SftSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import OptimizerSection
from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.requests import PromptEncoder
from deepscaler.data.sources.synthetic import evaluation_sets, training_problems
from deepscaler.data.stream import ProblemStream
from deepscaler.data.templates import decoder, template_fingerprint
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.progress import Progress
from deepscaler.protocols import Grader, Sampler
from deepscaler.rewards.isolation.pool import make_grader
from deepscaler.toy.base_model import ensure_base
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.replica import ModelReplica, adamw, policy_computer
from deepscaler.types import GradeItem, Group, Problem, Request, SamplingParams, ScoredGroup

GROUP_SIZE = 8  # completions per prompt: each is compared with the other seven
PROMPTS_PER_STEP = 48
UPDATES_PER_STEP = 2  # optimizer updates on the completions of one step; the second one is slightly off-policy
MAX_COMPLETION_TOKENS = 64  # what is not finished by then is truncated and earns nothing
MAX_PROMPT_TOKENS = 32


def make_recipe(seed: int, num_steps: int, warm_up: int) -> Recipe:
    """The settings of everything below. On the command line of the program this is a TOML file."""
    return Recipe(
        name="by-hand",
        seed=seed,
        num_steps=num_steps,
        # Worked solutions: six in ten spell the operation out digit by digit; of the others three in ten are wrong.
        sft=SftSection(
            steps=warm_up,
            tokens_per_step=1024,
            spelled_frac=0.6,
            slip_frac=0.3,
            repair_frac=0.0,
            redo_frac=0.0,
            filler_frac=0.1,
            restart_frac=0.0,
            spiral_enter=0.0,
        ),
        data=DataSection(source="synthetic", instruction="", num_problems=2000, min_operations=1, max_operations=1),
        rollout=RolloutSection(prompts_per_step=PROMPTS_PER_STEP, group_size=GROUP_SIZE, temperature=1.0),
        stages=(StageSection(name="only", max_completion_tokens=MAX_COMPLETION_TOKENS),),
        algorithm=AlgorithmSection(
            advantage="group_normalized", loss="clipped_surrogate", reduction="token_mean", clip_low=0.2, clip_high=0.28
        ),
        optimizer=OptimizerSection(learning_rate=3e-4),
        evaluation=EvaluationSection(num_problems=100, set_operations=(1,)),
    )


class Experience:
    """Samples completions and grades them: from problems to scored groups."""

    def __init__(self, engine: Sampler, grader: Grader, tokenizer: Any, stop_ids: frozenset[int], seed: int) -> None:
        self._engine, self._grader, self._seed = engine, grader, seed
        self._encode = PromptEncoder(tokenizer, PromptFormat())  # a problem through the chat template to token ids
        self._decode = decoder(tokenizer, stop_ids)  # the ids of a completion to the text that is graded
        # The chat template ends the prompt with `<think>`, so a completion begins inside the thoughts.
        self._prefilled = template_fingerprint(tokenizer).thinking_prefilled

    def collect(self, problems: Sequence[Problem], step: int, group_size: int = GROUP_SIZE) -> list[ScoredGroup]:
        # 1. A request asks for all completions of one prompt. Each draw is keyed by (seed, step, problem, sample
        #    index), so the same command gives the same completions again.
        requests = [Request(problem.id, self._encode(problem), group_size) for problem in problems]
        params = SamplingParams(MAX_COMPLETION_TOKENS, temperature=1.0, seed=self._seed, step=step)

        # 2. Rollouts arrive as they finish, in any order, with the log-probability of every sampled token.
        rollouts = {(r.problem_id, r.sample_index): r for r in self._engine.generate(requests, params)}
        groups = [Group(p, tuple(rollouts[p.id, i] for i in range(group_size))) for p in problems]

        # 3. What the grader needs to know of each completion. It extracts the boxed answer and compares it with the
        #    reference as mathematics; reward 1 if they are equal, else 0.
        items = [
            GradeItem(
                completion=self._decode(rollout.completion_ids),
                references=group.problem.references,
                thinking_prefilled=self._prefilled,
                truncated=rollout.truncated,
            )
            for group in groups
            for rollout in group.rollouts
        ]
        verdicts = self._grader.grade(items)  # one per item, in order

        # 4. Groups with the verdicts on their completions.
        scored = []
        for number, group in enumerate(groups):
            part = slice(number * group_size, (number + 1) * group_size)
            texts = tuple(item.completion for item in items[part])
            scored.append(ScoredGroup(group, texts, tuple(verdicts[part])))
        return scored


def evaluate(experience: Experience, held_out: Sequence[Problem], when: str) -> float:
    """Print and return Pass@1: the mean reward on problems that no training has seen, 4 completions each."""
    groups = experience.collect(held_out, step=0, group_size=4)
    score = float(np.mean([group.rewards for group in groups]))
    print(f"held-out problems {when}: {100 * score:.1f}% right; e.g. {held_out[0].prompt} -> {groups[0].texts[0]}")
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description="GRPO written out by hand on a small arithmetic task.")
    parser.add_argument("--steps", type=int, default=40, help="steps of GRPO")
    parser.add_argument("--seed", type=int, default=1, help="every draw is a function of it")
    parser.add_argument("--warm-up", type=int, default=800, help="supervised updates that make the base model")
    parser.add_argument("--model", type=Path, help="a model directory to start from")
    args = parser.parse_args()
    cpu.prepare(threads=1)  # one thread is the fastest for such small matrices
    cpu.compile_kernels(print)  # the first time only
    recipe = make_recipe(args.seed, args.steps, args.warm_up)
    # Supervised warm-up: without it no completion would be right, all advantages would be 0, and nothing would be
    # learned. The base model is kept in runs/bases, so the next run begins at once.
    directory = args.model or ensure_base(recipe, Progress())[0]
    files = open_model(directory, "float32")  # a Hugging Face directory: weights, tokenizer, chat template
    model = files.load(longest=MAX_PROMPT_TOKENS + MAX_COMPLETION_TOKENS)
    tokenizer, stop_ids = files.tokenizer, files.stop_ids()

    # The learner: `policy_computer` computes losses and gradients, the replica adds an optimizer, the policy learner
    # decides what goes into which update.
    replica = ModelReplica(policy_computer(model, recipe), adamw(recipe.optimizer))
    learner = PolicyLearner(replica, recipe.algorithm, recipe.optimizer)
    # The engine samples. It has a copy of the weights, as an engine in another process would, so they have to be
    # published to it after every step. (On one CPU the program lets both share the same memory.)
    engine = TorchEngine(copy.deepcopy(model), stop_ids=stop_ids)
    training = training_problems(recipe.data, recipe.evaluation, recipe.seed)
    stream = ProblemStream(training, recipe.seed)  # endless, reshuffled in every epoch
    held_out = [problem for problems in evaluation_sets(recipe.evaluation).values() for problem in problems]

    # Model text may be hostile, so grading is in a process of its own with limits of time and memory.
    with make_grader(recipe.grader) as grader:
        experience = Experience(engine, grader, tokenizer, stop_ids, recipe.seed)
        before = evaluate(experience, held_out, "before")
        for step in range(1, args.steps + 1):
            train_step(step, recipe, stream, experience, learner, engine)
        after = evaluate(experience, held_out, "after")
    print(f"held-out problems: {100 * before:.1f}% -> {100 * after:.1f}%")


def train_step(
    step: int,
    recipe: Recipe,
    stream: ProblemStream,
    experience: Experience,
    learner: PolicyLearner,
    engine: Sampler,
) -> None:
    """One step of GRPO: sample, grade, update, publish."""
    start = time.monotonic()
    groups = experience.collect(stream.take(PROMPTS_PER_STEP), step)

    # 5. Advantages and token weights. The advantage of completion i compares its reward with those of its group, which
    #    takes the place of a value model (GRPO, Shao et al. 2024, arXiv:2402.03300):
    #        A_i = (r_i - mean(r)) / (std(r) + 1e-6)          a group of equal rewards gets 0 and teaches nothing
    #    Every token of the completion has this advantage. A token's weight is 1 / (tokens of the update): the token
    #    mean of DAPO (Yu et al. 2025, arXiv:2503.14476). The prompts are divided among the updates of the step.
    mini_batches = make_samples(
        groups, recipe.algorithm, max_completion_tokens=MAX_COMPLETION_TOKENS, num_updates=UPDATES_PER_STEP
    )

    # 6. For each mini-batch the gradient of the clipped surrogate (PPO, Schulman et al. 2017, arXiv:1707.06347), then
    #    one step of AdamW. With ratio_t = exp(logprob_t - old_logprob_t), old: the policy at the start of the step,
    #        loss = sum_t weight_t * max(-A * ratio_t, -A * clip(ratio_t, 1 - clip_low, 1 + clip_high))
    stats = learner.update(mini_batches)

    # 7. The engine gets the new weights, and reads back what it holds. Sampling with stale weights is a silent fault:
    #    rewards still rise for a while. So the digests of both sides (SHA-256 of all weights) are compared.
    published = learner.publish()
    held = engine.load_weights(published)
    if held.digest != published.digest(held.dtype):
        raise RuntimeError(f"the engine holds weights {held.digest[:8]}, the learner published others")

    # mismatch: mean |log-probability by the learner - by the engine| of the sampled tokens. Both compute the same
    # function of the same weights, so only rounding may be left; more means a bug in either of them.
    reward = np.mean([group.rewards for group in groups])
    length = np.mean([rollout.num_tokens for group in groups for rollout in group.group.rollouts])
    mismatch = "none" if stats.mismatch_mean is None else f"{stats.mismatch_mean:.1e}"  # none: nothing was trained on
    print(
        f"step {step:>3}  reward {reward:.3f}  length {length:5.1f} tokens  mismatch {mismatch}"
        f"  weights {held.digest[:8]} on both sides  {time.monotonic() - start:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
