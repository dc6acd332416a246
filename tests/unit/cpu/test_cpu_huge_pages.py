"""Memory in huge pages is ordinary memory to whoever uses it."""

from __future__ import annotations

import pytest
import torch

from deepscaler.cpu.huge_pages import zeros_in_huge_pages


@pytest.mark.parametrize("rows", [3, 3000])
def test_huge_pages_hold_zeros_that_can_be_written(rows: int) -> None:
    zeros = zeros_in_huge_pages((rows, 2, 512), torch.float32)
    assert zeros.shape == (rows, 2, 512) and not zeros.any()
    zeros[-1, 1, 511] = 7.0
    assert float(zeros.sum()) == 7.0
