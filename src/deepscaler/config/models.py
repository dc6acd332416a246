"""The recipe as frozen models: one TOML file, one experiment.

Every field carries its unit, its meaning and what it shapes (`setting.py`); defaults are values we would defend.
Batch sizes are given once, globally. Nothing edits a recipe after loading: a bad combination is refused in `checks.py`.
"""

from __future__ import annotations

from pydantic import Field

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.curriculum import CurriculumSection, StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.evaluation import EvaluationSection, GraderSection
from deepscaler.config.sections.model import ModelSection, SftSection
from deepscaler.config.sections.reward import RewardSection
from deepscaler.config.sections.rollout import ClusterSection, RolloutSection
from deepscaler.config.sections.training import AlarmSection, CheckpointSection, OptimizerSection, TrainingSection
from deepscaler.config.setting import Section, setting


class Recipe(Section):
    name: str = setting(shapes="nothing", doc="name of the experiment")
    description: str = setting("", shapes="nothing", doc="one line about it")
    seed: int = setting(1, shapes="base", doc="every draw of the run is a function of it", ge=0)
    preset: str = setting(
        "deepscaler", shapes="nothing", doc="named set of [algorithm] values; see `deepscaler presets`"
    )
    num_steps: int = setting(
        unit="steps", shapes="nothing", doc="the run ends after so many steps, all stages together", gt=0
    )
    model: ModelSection = ModelSection()
    sft: SftSection | None = setting(
        None, shapes="base", doc="how to make the base model; absent when model.path names one"
    )
    data: DataSection
    rollout: RolloutSection
    stages: tuple[StageSection, ...] = Field(min_length=1)
    curriculum: CurriculumSection = CurriculumSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    cluster: ClusterSection = ClusterSection()
    grader: GraderSection = GraderSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    alarms: AlarmSection = AlarmSection()
