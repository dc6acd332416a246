"""The registered benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from deepscaler.data.benchmarks.competition import COMPETITION_SPECS
from deepscaler.data.benchmarks.contests_2025 import CONTESTS_2025
from deepscaler.data.benchmarks.exams import EXAMS
from deepscaler.data.benchmarks.spec import AnswerForm, BenchmarkSpec, HubSource

__all__ = ["BENCHMARKS", "AnswerForm", "BenchmarkSpec", "HubSource"]

BENCHMARKS: Mapping[str, BenchmarkSpec] = MappingProxyType(
    {spec.name: spec for spec in (*COMPETITION_SPECS, *CONTESTS_2025, *EXAMS)}
)
