"""Losses and advantages by import path: those that keep the laws are used, each that breaks one is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepscaler.algorithms.advantages import ADVANTAGES
from deepscaler.algorithms.losses import LOSSES
from deepscaler.algorithms.own import advantage_of, check_algorithm, loss_of
from deepscaler.algorithms.own_laws import broken_advantage_law, broken_loss_law
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.own_code import own_code_digest

FILE = Path(__file__).parents[2] / "support" / "own_algorithms.py"


@pytest.mark.parametrize("name", LOSSES)
def test_the_losses_of_the_package_keep_the_laws(name: str) -> None:
    assert broken_loss_law(LOSSES[name]) is None


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_advantages_of_the_package_keep_the_laws(name: str) -> None:
    assert broken_advantage_law(ADVANTAGES[name]) is None


def test_a_loss_of_ones_own_may_return_the_tensor_alone() -> None:
    check_algorithm(AlgorithmSection(loss=f"{FILE}:with_clip", advantage=f"{FILE}:centred"))
    ones = torch.ones(3)
    result = loss_of(f"{FILE}:plain")(ones, ones, ones, torch.zeros(3, dtype=torch.long), clip_low=0.2, clip_high=0.2)
    assert result.loss_T.tolist() == [-1.0] * 3 and not result.clipped_T.any()
    assert advantage_of(f"{FILE}:centred")(torch.tensor([[1.0, 3.0]])).tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("summed", r"loss_T has shape \[\] for logprobs of \[8\]"),
        ("flipped", "positive advantage the wrong way; flip the sign"),
        ("batch_mean", "advantage 0 has a gradient"),
        ("entropy_like", "advantage 0 has a gradient"),
        ("across", "depends on the others of its micro-batch"),
        ("in_place", "changes its arguments in place"),
        ("infinite", "is not finite"),
        ("detached", "carries no gradient"),
        ("random", "another value for the same arguments"),
        ("nothing", "returned a NoneType"),
        ("no_clip", "raised TypeError on a small batch"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_a_loss_that_breaks_a_law_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        loss_of(f"{FILE}:{name}")
    assert str(caught.value).startswith("algorithm.loss = ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raw", "equal rewards does not get exactly 0"),
        ("all_in_the_mean", "without a reward .* does not get 0"),
        ("standard_deviation", "not finite"),
        ("one_argument", "it is called with rewards_PG and graded_PG"),
        ("negative", "the best completion of a group gets less than its worst"),
        ("a_list", "it returned list for rewards of"),
    ],
)
def test_an_advantage_that_breaks_a_law_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        advantage_of(f"{FILE}:{name}")
    assert str(caught.value).startswith("algorithm.advantage = ")


def test_a_file_that_does_not_import_is_refused_with_its_traceback(tmp_path: Path) -> None:
    file = tmp_path / "broken_loss.py"
    file.write_text("import torch\n\nraise RuntimeError('no')\n")
    with pytest.raises(ValueError, match=r"does not import: RuntimeError: no \(line 3\)") as caught:
        loss_of(f"{file}:f")
    assert 'broken_loss.py", line 3' in str(caught.value)


def test_the_digest_changes_with_the_file_and_the_function(tmp_path: Path) -> None:
    file = tmp_path / "digested_loss.py"
    file.write_text("def f(): ...\ndef g(): ...\n")
    before = {name: own_code_digest(f"{file}:{name}") for name in "fg"}
    file.write_text("def f(): ...\ndef g(): return 1\n")
    assert len({*before.values(), own_code_digest(f"{file}:f")}) == 3
