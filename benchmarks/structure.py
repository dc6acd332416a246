"""Counts of the structure of the code: what a change touches, how long its pieces are, what is said in several places.

    python benchmarks/structure.py --checkout . --before OLD --write

Reads source text only, of any version of this repository; it imports nothing of it. With --before it counts two
checkouts in the same way and prints their figures side by side; --write puts the table into docs/architecture.md.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markers import replace_between_markers

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"

# Speed on CPU: kernels, the operations that call them, layers, allocator and threads. Folders and files under
# src/deepscaler, of old versions and new ones; those of the other version are absent.
CPU_SPEED = (
    "cpu",
    "cpu.py",
    "compiled",
    "orchestration/compiling.py",
    "rollout/kernels.py",
    "rollout/compiled_attention.py",
    "rollout/block_attention.py",
    "rollout/products.py",
    "rollout/large_pages.py",
    "training/attention_kernels.py",
    "training/cpu_attention.py",
    "training/cpu_layers.py",
    "training/products.py",
    "engines/torch/block_attention.py",
)

# Where the code says by hand what shapes a result: file, text by which the place is found.
SHAPING_PLACES = (
    ("config/setting.py", "Shapes = Literal["),
    ("config/resume.py", "FREE = ("),
    ("config/evaluation.py", 'include={"limit", "corrected", "instruction"}'),
    ("orchestration/evaluate.py", 'exclude={"workers"}'),
    ("orchestration/evaluate.py", "**settings_of(self.recipe),"),
    ("loop/evaluate.py", "**settings_of(self.recipe),"),
    ("orchestration/base_model.py", 'include={"instruction", "min_operations", "max_operations"}'),
    ("orchestration/engines.py", 'return {"kind": "torch", "versions"'),
    ("engines/registry.py", '"kind": kind,'),
    ("cli/eval_commands.py", 'GraderSection(**{**kept, "workers": workers})'),
)

REMOVED = {"Fleet", "LocalFleet", "Team", "GradientTeam", "SupervisedTeam", "ManyGrader"}


@dataclass(frozen=True, slots=True)
class Source:
    """One file of src/deepscaler. path: relative to it."""

    path: str
    text: str
    tree: ast.Module

    @property
    def num_lines(self) -> int:
        return self.text.count("\n")


@dataclass(frozen=True, slots=True)
class Example:
    """An existing part, by which the files that another of its kind touches are found.

    texts: string constants, modules: parts of an imported path, that name it in code. own: where the paths of
    its files begin, in old versions and new ones. exempt: folders and files that use the same word for something else.
    """

    texts: frozenset[str]
    modules: frozenset[str]
    own: tuple[str, ...]
    exempt: tuple[str, ...] = ()


REWARD = Example(
    frozenset({"string"}),
    frozenset({"string_match"}),
    own=("rewards/string_match", "rewards/profiles/string"),
    exempt=("data/", "evaluation/exports.py", "evaluation/samples.py", "observability/"),  # types of columns
)
ENGINE = Example(
    frozenset({"vllm"}),
    frozenset({"vllm", "vllm_engine", "vllm_weights"}),
    own=("engines/vllm", "rollout/vllm"),
    exempt=("engines/openai/probe.py", "rollout/openai_probe.py", "cli/diagnosis/"),  # kinds of servers, packages
)
FAMILY = Example(frozenset({"qwen3", "q_norm"}), frozenset({"qwen3"}), own=("modeling/families/qwen3",))


def read_sources(checkout: Path) -> list[Source]:
    root = checkout / "src" / "deepscaler"
    files = sorted(root.rglob("*.py"))
    if not files:
        raise SystemExit(f"{checkout} holds no src/deepscaler; give the root of a checkout of this repository")
    texts = [(file.relative_to(root).as_posix(), file.read_text()) for file in files]
    return [Source(path, text, ast.parse(text)) for path, text in texts]


def naming_files(sources: Sequence[Source], example: Example) -> list[str]:
    """Files, apart from the part's own, whose code names it. Docstrings and comments do not count."""
    return [
        source.path
        for source in sources
        if not source.path.startswith((*example.own, *example.exempt)) and _names(source.tree, example)
    ]


def _names(tree: ast.Module, example: Example) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in example.texts:
            return True
        if isinstance(node, ast.Attribute) and node.attr in example.texts:
            return True
        if isinstance(node, ast.ImportFrom | ast.Import):
            words = [*(getattr(node, "module", None) or "").split("."), *(name.name for name in node.names)]
            if example.modules.intersection(words):
                return True
    return False


def nodes(sources: Sequence[Source]) -> Iterator[tuple[Source, ast.AST]]:
    return ((source, node) for source in sources for node in ast.walk(source.tree))


def any_per_thousand(sources: Sequence[Source]) -> str:
    """Every use of the type, annotations and aliases; its imports do not count."""
    uses = sum(isinstance(node, ast.Name) and node.id == "Any" for _, node in nodes(sources))
    return f"{1000 * uses / sum(source.num_lines for source in sources):.1f}"


def longest_function(sources: Sequence[Source]) -> str:
    lengths = [
        (node.end_lineno - node.lineno + 1, node.name, source.path)
        for source, node in nodes(sources)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]
    length, name, path = max(lengths)
    return f"{length} (`{name}` in `{path}`)"


def longest_file(sources: Sequence[Source]) -> str:
    longest = max(sources, key=lambda source: source.num_lines)
    return f"{longest.num_lines} (`{longest.path}`)"


def cpu_speed(sources: Sequence[Source]) -> list[Source]:
    return [s for s in sources if any(s.path == place or s.path.startswith(f"{place}/") for place in CPU_SPEED)]


def num_settings(sources: Sequence[Source]) -> int:
    """Calls of `setting(…)` in the settings' models, of training and of evaluation."""
    return sum(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setting"
        for source, node in nodes(sources)
        if source.path.startswith("config/")
    )


def shaping_places(sources: Sequence[Source]) -> list[str]:
    texts = {source.path: source.text for source in sources}
    return [path for path, marker in SHAPING_PLACES if marker in texts.get(path, "")]


def difference_functions(sources: Sequence[Source]) -> list[str]:
    """Functions that walk over the keys of both, `a.keys() | b.keys()`, and compare the values by `!=`."""
    return [
        f"{source.path}:{node.name}"
        for source, node in nodes(sources)
        if isinstance(node, ast.FunctionDef)
        and any(_joins_keys(inner) for inner in ast.walk(node))
        and any(isinstance(inner, ast.NotEq) for inner in ast.walk(node))
    ]


def _joins_keys(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.BitOr)
        and all(
            isinstance(side, ast.Call) and isinstance(side.func, ast.Attribute) and side.func.attr == "keys"
            for side in (node.left, node.right)
        )
    )


def removed_classes(sources: Sequence[Source]) -> int:
    return sum(isinstance(node, ast.ClassDef) and node.name in REMOVED for _, node in nodes(sources))


def counted_files(paths: Sequence[str]) -> str:
    return f"{len(paths)} ({', '.join(f'`{path}`' for path in paths)})" if paths else "0"


ROWS: tuple[tuple[str, Callable[[Sequence[Source]], str]], ...] = (
    ("files to edit for a reward, beside its own", lambda s: counted_files(naming_files(s, REWARD))),
    ("for an engine in this process, beside its own", lambda s: counted_files(naming_files(s, ENGINE))),
    ("for a family such as Qwen3", lambda s: counted_files(naming_files(s, FAMILY))),
    ("places that say what shapes a result", lambda s: str(len(shaping_places(s)))),
    ("functions that compare two recipes or two sets of settings", lambda s: str(len(difference_functions(s)))),
    ("settings", lambda s: str(num_settings(s))),
    ("uses of `Any` per 1,000 lines", any_per_thousand),
    ("longest function, lines", longest_function),
    ("longest file, lines", longest_file),
    ("lines of speed on CPU", lambda s: f"{sum(one.num_lines for one in cpu_speed(s)):,}"),
    ("files, lines", lambda s: f"{len(s)}, {sum(one.num_lines for one in s):,}"),
    ("classes Fleet, LocalFleet, Team, GradientTeam, SupervisedTeam, ManyGrader", lambda s: str(removed_classes(s))),
)


def table(checkouts: Sequence[tuple[str, list[Source]]]) -> str:
    lines = ["| src | " + " | ".join(name for name, _ in checkouts) + " |", "|---|" + "---|" * len(checkouts)]
    lines += [f"| {name} | " + " | ".join(count(sources) for _, sources in checkouts) + " |" for name, count in ROWS]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=Path())
    parser.add_argument("--before", type=Path, help="a checkout of an older version, counted beside")
    parser.add_argument("--write", action="store_true", help="put the table into docs/architecture.md")
    arguments = parser.parse_args()
    checkouts = [("now", read_sources(arguments.checkout))]
    if arguments.before:
        checkouts.insert(0, ("before", read_sources(arguments.before)))
    text = table(checkouts)
    print(text)
    for name, sources in checkouts:
        print(f"\n{name}: which places, functions and files were counted", file=sys.stderr)
        listed = [*shaping_places(sources), *difference_functions(sources)]
        listed += [f"{one.path} {one.num_lines}" for one in cpu_speed(sources)]
        print("\n".join(listed), file=sys.stderr)
    if arguments.write:
        replace_between_markers(PAGE, "structure.py", text)


if __name__ == "__main__":
    main()
