"""What a run records of the machine and the versions."""

from __future__ import annotations

import json

from deepscaler.observability.environment import run_info


def test_the_run_says_what_it_ran_on() -> None:
    info = run_info("digest", "model", {"gpu": "Card"})
    text = json.dumps(info)
    hardware = json.loads(text)["hardware"]
    assert hardware["gpu"] == "Card" and hardware["cores"] >= 1
    assert "torch" in text and "digest" in text and "python" in text
