"""doctor describes any machine: with torch, without it, with packages missing or too old."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from deepscaler.cli import doctor


def test_this_machine_is_described() -> None:
    findings = {finding.topic: finding for finding in doctor.diagnose()}
    for topic in ("python", "cores", "memory", "disk", "torch", "gpu", "core packages", "extra dev"):
        assert findings[topic].text
    assert findings["core packages"].status == "ok"
    assert metadata.version("torch") in findings["torch"].text
    assert doctor.usable_cores() > 0


def test_doctor_works_without_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "sys.argv = ['deepscaler', 'doctor', '--json']\n"
        "from deepscaler.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert findings["torch"]["status"] == "missing"
    assert findings["gpu"]["status"] == "note"


def finding(topic: str) -> doctor.Finding:
    (found,) = [finding for finding in doctor.diagnose() if finding.topic == topic]
    return found


def test_an_extra_with_a_missing_package_says_how_to_add_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["pytest>=8; extra == 'track'", "surely-not-installed>=2; extra == 'track'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    found = finding("extra track")
    assert found.status == "note"
    assert "surely-not-installed is not installed" in found.text
    assert "'.[track]'" in found.text


def test_a_package_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["pytest>=9999"])
    found = finding("core packages")
    assert found.status == "missing"
    assert "pytest>=9999 is needed" in found.text


def test_a_small_amount_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, status, text in (
        (doctor.GIB, "note", "1.0 GiB; "),
        (8 * doctor.GIB, "ok", "8.0 GiB"),
        (None, "note", "unknown"),
    ):
        monkeypatch.setattr(doctor, "usable_memory", lambda size=size: size)
        found = finding("memory")
        assert found.status == status and found.text.startswith(text)
