"""Code in every position of an answer: through a real grading process, under an audit, nothing of it happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from child_pythonpath import PYTHONPATH
from deepscaler.rewards.isolation.pool import GraderPool
from deepscaler.rewards.isolation.process import Limits
from deepscaler.types import GradeItem, Outcome, Verdict

MARK = "pwned"
PAYLOADS = (
    f"__import__('os').system('touch {MARK}')",
    f"open('{MARK}','w').write('x')",
    f"exec(\"open('{MARK}','w')\")",
    f"eval(\"open('{MARK}','w')\")",
    f"getattr(__import__('o'+'s'),'sys'+'tem')('touch {MARK}')",
    f"__import__('subprocess').run(['touch','{MARK}'])",
    f"__import__('pathlib').Path('{MARK}').touch()",
    "__import__('socket').create_connection(('127.0.0.1',9))",
    "__import__('urllib.request').request.urlopen('http://127.0.0.1:9')",
    "().__class__.__base__.__subclasses__()",
    "(lambda: ().__class__.__mro__[1].__subclasses__())()",
    f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen'][0]('touch {MARK}',shell=True)",
    "__builtins__.__dict__['__import__']('os').fork()",
    "globals().clear()",
    "setattr(__import__('deepscaler.rewards.profiles.deepscaler'),'grade',None)",
    f"Symbol('x').__class__.__init__.__globals__['os'].system('touch {MARK}')",
    f"S(\"__import__('os').system('touch {MARK}')\")",
    f"lambdify([],\"open('{MARK}','w')\")()",
    f"\\pi if open('{MARK}','w') else 1",
    f"1;import os;os.system('touch {MARK}')",
    f"\\write18{{touch {MARK}}}",
    f"\\immediate\\openout1={MARK}.tex",
    "\\input{/etc/passwd}",
    "\\catcode`\\@=0 @input@/etc/passwd",
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"7; touch {MARK} #",
    f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}} {MARK}",
    f"cos\nsystem\n(S'touch {MARK}'\ntR.",
    "breakpoint()",
)
ANSWERS = (
    "{}",
    r"\text{{{}}}",
    "2^{{{}}}",
    "x_{{{}}}",
    "10_{{{}}}",
    r"\sin\left({}\right)",
    "f({})",
    r"\frac{{{}}}{{2}}",
    r"\sqrt[{}]{{2}}",
    r"\begin{{pmatrix}} 1 & {} \\ 2 & 3 \end{{pmatrix}}",
    r"\begin{{{}}} 1 \end{{{}}}",
    r"\{{1, {}\}}",
    "({}, 1]",
    "x = {}",
    r"5 \text{{ {}}}",
    r"\operatorname{{{}}}(2)",
    r"\boxed{{{}}}",
    r"\binom{{5}}{{{}}}",
    "{}!",
    r"1 < {} \le 2",
    r"\$ {} \%",
)
AROUND = (
    "{}</think>\\boxed{{7}}",
    "</think>{} \\boxed{{7}}",
    "</think>\\boxed{{7}} {}",
    "</think>\\boxed{{1}}, {} \\boxed{{2}}",
    "<think>{}",
)


def _cases() -> list[GradeItem]:
    inside = [f"</think>\\boxed{{{a.format(p, p)}}}" for a in ANSWERS for p in PAYLOADS]
    around = [a.format(p) for a in AROUND for p in PAYLOADS]
    graded = [GradeItem(c, ["7", "\\frac{1}{2}", "x+1"], False) for c in (*inside, *around)]
    as_reference = [GradeItem("\\boxed{7}", [a.format(p, p)], False) for a in ANSWERS for p in PAYLOADS]
    as_both = [GradeItem(f"\\boxed{{{p} + 1}}", [f"1 + {p}"], False) for p in PAYLOADS]
    return [*graded, *as_reference, *as_both]


def _grade(function: str, items: list[GradeItem]) -> list[Verdict]:
    limits = Limits(wall_s=60, cpu_s=2, memory_mib=1024)
    with GraderPool(num_workers=1, limits=limits, grader=f"audited_grader:{function}") as pool:
        return pool.grade(items)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory of test and grading process, with nothing in it."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_payload_writes_runs_loads_or_dials_from_any_position(watched: Path) -> None:
    cases = _cases()
    assert len(cases) >= 1400
    for item, verdict in zip(cases, _grade("grade", cases), strict=True):
        assert verdict.outcome not in (Outcome.GRADER_FAILED, Outcome.TIMEOUT), (item, verdict)
        assert json.loads(verdict.detail) == [], item
    assert list(watched.iterdir()) == []


def test_the_grader_is_the_same_after_the_payloads(watched: Path) -> None:
    """No answer may change how later ones are graded."""
    right, wrong = GradeItem("\\boxed{\\frac{2}{4}}", ["0.5"], False), GradeItem("\\boxed{0.51}", ["0.5"], False)
    verdicts = _grade("grade", [right, wrong, *_cases(), GradeItem("\\boxed{0.500}", ["\\frac12"], False), wrong])
    assert [v.outcome.value for v in (*verdicts[:2], *verdicts[-2:])] == ["correct", "wrong"] * 2


def test_the_audit_notices_a_grader_that_evaluates(watched: Path) -> None:
    """The test above can fail: Python's evaluation of the same payloads is noticed, and still writes nothing."""
    verdicts = _grade("evaluate", [GradeItem(f"\\boxed{{{payload}}}", ["7"], False) for payload in PAYLOADS[:14]])
    assert all(v.detail != "[]" or v.outcome is Outcome.GRADER_FAILED for v in verdicts)
    assert sum("compile" in v.detail for v in verdicts) >= 10
    assert list(watched.iterdir()) == []  # what the worker refuses by itself
