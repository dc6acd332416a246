"""GSM8K, the whole test split of MATH, and GPQA-Diamond as multiple choice."""

from __future__ import annotations

from deepscaler.data.benchmarks.spec import BenchmarkSpec, HubSource

_GSM8K_COLUMNS = {"problem": "question", "answer": "answer", "solution": "answer"}
_MATH_COLUMNS = {
    "problem": "problem",
    "answer": "solution",
    "solution": "solution",
    "difficulty": "level",
    "group": "type",
}
_GPQA_COLUMNS = {"problem": "Question", "answer": "Correct Answer", "group": "High-level domain"}
_SEVERAL_PINS = "the pin of several public evaluation projects; the dataset's own page was not reachable"

EXAMS = (
    BenchmarkSpec(
        name="gsm8k",
        title="GSM8K",
        file="gsm8k_test.jsonl",
        num_problems=1319,
        sha256=("9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394",),
        rows_sha256="2d31d9e9ad8690959d1af67f7d1d942fdd649dfb63c0c0a758c66d9d78b9210e",
        licence="MIT (openai/grade-school-math)",
        hub=HubSource(
            dataset="openai/gsm8k",
            revision="740312add88f781978c0658806c59bc2815b9866",
            split="test",
            config="main",
            fields=_GSM8K_COLUMNS,
            answer_form="latex",
            revision_note=_SEVERAL_PINS,
        ),
        fields=_GSM8K_COLUMNS,
        answer_form="latex",
        quirks=(
            "Answers are worked solutions that end in `#### N`; N is the reference.",
            "Others ask with 5 or 8 worked examples; here the problem is asked alone.",
        ),
    ),
    BenchmarkSpec(
        name="math",
        title="MATH",
        file="",
        num_problems=5000,
        sha256=(),
        rows_sha256="",
        licence="MIT (hendrycks/math)",
        hub=HubSource(
            dataset="DigitalLearningGmbH/MATH-lighteval",
            revision="0530c78699ea5e8eb5530600900e1f328b48acad",
            split="test",
            config=None,
            fields=_MATH_COLUMNS,
            answer_form="latex",
            revision_note=_SEVERAL_PINS,
        ),
        fields=_MATH_COLUMNS,
        answer_form="latex",
        quirks=(
            "The whole test split; MATH-500 is a part of it, and the other 4,500 problems are often trained on.",
            "The reference is the last box of the row's solution; `difficulty` is the level, 1 to 5.",
        ),
    ),
    BenchmarkSpec(
        name="gpqa_diamond",
        title="GPQA-Diamond",
        file="",
        num_problems=198,
        sha256=(),
        rows_sha256="",
        licence="CC BY 4.0; gated: the authors ask that no question is published as plain text (arXiv:2311.12022)",
        hub=HubSource(
            dataset="Idavidrein/gpqa",
            revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
            split="train",
            config="gpqa_diamond",
            fields=_GPQA_COLUMNS,
            answer_form="choice",
            revision_note=_SEVERAL_PINS,
        ),
        fields=_GPQA_COLUMNS,
        answer_form="choice",
        quirks=(
            "Four choices under A to D, in an order drawn from the content of the row: the same in every evaluation.",
            "problems.jsonl and samples.parquet of an evaluation hold the questions: do not publish them.",
        ),
        instruction="\n\nLet's think step by step and output the letter of the right choice within \\boxed{}.",
        wrong_choices=("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
    ),
)
