"""What the commands do that work on stored completions: compare, eval-export, eval-import."""

from __future__ import annotations

from pathlib import Path


def compare(evaluation_a: Path, evaluation_b: Path, *, published: bool, common: bool, out: Path | None) -> int:
    from deepscaler.evaluation.compare import compare_directories
    from deepscaler.evaluation.comparison_files import write_comparison_files
    from deepscaler.evaluation.samples import samples_file
    from deepscaler.evaluation.tables import print_comparison
    from deepscaler.report import write_comparison_page

    comparison = compare_directories(evaluation_a, evaluation_b, common=common)
    print_comparison(comparison, with_published=published)
    if out is not None:
        files = write_comparison_files(out, comparison, with_published=published)
        first, second = samples_file(evaluation_a), samples_file(evaluation_b)
        files.append(write_comparison_page(files[0], first, second, out / "comparison.html"))
        for file in files:
            print(file)
    return 0
