"""Grading, and the evaluations inside a training run."""

from __future__ import annotations

from deepscaler.config.answer_rules import AnswerRules, in_order
from deepscaler.config.parts import RewardName
from deepscaler.config.setting import Section, setting


class GraderSection(Section):
    profile: RewardName = setting(
        "deepscaler",
        shapes="verdict",
        doc="mathematical equality, or equality of lightly normalised text (JustRL, DAPO)",
    )
    answer: AnswerRules = setting(
        "boxed",
        shapes="verdict",
        added=True,
        doc="where the answer is, after the thinking: boxed, last_number, after_####, the answer is, answer:, "
        "<answer>; of an array the first that finds one (docs/grading.md)",
    )
    workers: int = setting(1, unit="processes", shapes="nothing", doc="grading processes", gt=0)
    cpu_s: float = setting(1.0, unit="s", shapes="verdict", doc="processor time per completion", gt=0)
    wall_s: float = setting(
        10.0, unit="s", shapes="verdict", doc="waiting time per completion, for a process that gets no processor", gt=0
    )
    memory_mib: int = setting(1024, unit="MiB", shapes="verdict", doc="address-space limit per grading process", gt=0)

    @property
    def answer_rules(self) -> tuple[str, ...]:
        """The rules of `answer` in the order in which they are tried."""
        return in_order(self.answer)


class EvaluationSection(Section):
    num_samples: int = setting(16, unit="completions", shapes="nothing", doc="samples per problem", gt=0)
    temperature: float = setting(0.6, shapes="nothing", doc="sampling temperature", gt=0)
    top_p: float = setting(0.95, shapes="nothing", doc="nucleus", gt=0, le=1)
    top_k: int = setting(0, shapes="nothing", doc="0 = off", ge=0)
    max_completion_tokens: int = setting(32768, unit="tokens", shapes="nothing", doc="completion budget", gt=0)
    every_steps: int = setting(
        0, unit="steps", shapes="nothing", doc="steps between evaluations inside training; 0 = only at stage ends", ge=0
    )
    num_problems: int = setting(
        100, unit="problems", shapes="base", doc="synthetic only: problems per held-out set", gt=0
    )
    set_operations: tuple[int, ...] = setting(
        (3, 4, 5, 7, 9), shapes="base", doc="synthetic only: chain length of each held-out set, rising difficulty"
    )
    during_training_problems: int = setting(
        32,
        unit="problems",
        shapes="base",
        doc="problems per set for evaluations inside training; never test problems",
        gt=0,
    )
    during_training_samples: int = setting(
        4, unit="completions", shapes="nothing", doc="samples per problem inside training", gt=0
    )
    benchmarks: tuple[str, ...] = setting(
        (),
        shapes="nothing",
        doc="benchmarks evaluated inside training, a subset of each; no checkpoint is chosen by them",
    )
    benchmarks_dir: str | None = setting(
        None, shapes="nothing", doc="directory of the benchmark files; absent = from the hub"
    )
    validation_files: tuple[str, ...] = setting(
        (),
        shapes="nothing",
        doc="files of held-out problems evaluated inside training, such as the validation.parquet of data prepare",
    )
