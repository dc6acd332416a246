"""Four contests of 2025. With the suite `competition` they are the suite `nine` (JustRL, arXiv:2512.16649, table 1)."""

from __future__ import annotations

from collections.abc import Mapping

from deepscaler.data.benchmarks.spec import BenchmarkSpec, HubSource

_FILE = "the copy in thunlp/JustRL's evaluation data (MIT)"
_COLUMNS: Mapping[str, str] = {"problem": "problem", "answer": "answer"}


def _hub(dataset: str, revision: str, note: str) -> HubSource:
    """MathArena's data sets have one layout: problem_idx, problem, answer, problem_type."""
    return HubSource(
        dataset=dataset,
        revision=revision,
        split="train",
        config=None,
        fields=_COLUMNS,
        answer_form="float" if dataset.endswith("aime_2025") else "latex",
        revision_note=note,
    )


CONTESTS_2025 = (
    BenchmarkSpec(
        name="aime25",
        title="AIME 2025",
        file="aime25.parquet",
        num_problems=30,
        sha256=("9d2333e1dc8831284747dfa62b58d8b6a84a94090ee108d1dd101f8d20a38593",),
        rows_sha256="e248be834cc768971ad9c81c1a4631466b2e676fb2a43f53911bac862620780d",
        licence=f"problems (c) MAA; {_FILE}; CC BY-NC-SA 4.0 on the hub",
        hub=_hub(
            "MathArena/aime_2025",
            "c94da77eb22bbd6439e62a323bec18493a421302",
            "the pin of several public evaluation projects; the dataset's own page was not reachable",
        ),
        fields={"problem": "prompt.0.content", "answer": "reward_model.ground_truth"},
        answer_form="integer_text",
        quirks=("The file has verl's layout; rows 0 to 14 are AIME I, rows 15 to 29 AIME II.",),
    ),
    BenchmarkSpec(
        name="hmmt25",
        title="HMMT February 2025",
        file="hmmt25.parquet",
        num_problems=30,
        sha256=("ccca64d248b89dc0765e40b893fe4ebeab242226a4336027d95d256886a3d5f2",),
        rows_sha256="34474146f0367cc974aa555712b8b196ea543679733493a253588321b8871166",
        licence=f"problems (c) HMMT; {_FILE}; CC BY-NC-SA 4.0 on the hub",
        hub=_hub(
            "MathArena/hmmt_feb_2025",
            "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
            "the pin of two public evaluation projects; another project pins a7ceac1",
        ),
        fields=_COLUMNS,
        answer_form="latex",
        quirks=("One answer is a list of two values, in any order.",),
    ),
    BenchmarkSpec(
        name="brumo25",
        title="BRUMO 2025",
        file="brumo25.parquet",
        num_problems=30,
        sha256=("ef510deea34c5b6d165c06d020acede1c1031eb91d90336cb4d615d9e55ba391",),
        rows_sha256="07a449a114fa903ca8faa0730bd74920da265b963fc2fc4ec5092461096497e4",
        licence=f"problems (c) Brown University Math Olympiad; {_FILE}; CC BY-NC-SA 4.0 on the hub",
        hub=_hub(
            "MathArena/brumo_2025",
            "6de9bc0987f5710c6376ee980e1483dbeb55cfda",
            "the pin of one public evaluation project",
        ),
        fields=_COLUMNS,
        answer_form="latex",
        quirks=("One answer is a list of four values, two of them complex, in any order.",),
    ),
    BenchmarkSpec(
        name="cmimc25",
        title="CMIMC 2025",
        file="cmimc25.parquet",
        num_problems=40,
        sha256=("7f290e5564265e57b0fe91c72bde2f1a06ca147148b7787084c54a0354abfcce",),
        rows_sha256="2128ebd632bd4852d4f42b8e699d8661035224d85c8185336d89a9302bf1c534",
        licence=f"problems (c) CMIMC; {_FILE}; CC BY-NC-SA 4.0 on the hub",
        hub=_hub(
            "MathArena/cmimc_2025",
            "8f27517ce4ad1d05e023c0e7eca4344754ba2a04",
            "the revision of one public copy of the rows",
        ),
        fields=_COLUMNS,
        answer_form="latex",
        quirks=("One answer is a decimal number (9.94), compared exactly.",),
    ),
)
