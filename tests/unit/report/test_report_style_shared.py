"""The page of a preparation looks like the others, though its layer cannot import theirs."""

from __future__ import annotations

import re

from deepscaler.data.prepare import pair_page
from deepscaler.report.palette import page_variables


def test_the_contamination_page_has_the_colours_of_the_report() -> None:
    for name, value in re.findall(r"--(ink|soft|surface|page|line):(#[0-9a-f]{6})", pair_page._STYLE):
        assert f"--{name}:{value}" in page_variables()
    assert pair_page._STYLE.count("--ink:") == page_variables().count("--ink:") == 2
