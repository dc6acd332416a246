"""doctor describes any machine: with torch, without it, with packages missing or too old."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

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


def test_an_extra_with_a_missing_package_says_how_to_add_it() -> None:
    finding = doctor._extra("track", ["pytest>=8", "surely-not-installed>=2"])
    assert finding.status == "note"
    assert "surely-not-installed is not installed" in finding.text
    assert "'.[track]'" in finding.text


def test_a_package_that_is_too_old_is_told() -> None:
    finding = doctor._extra("", ["pytest>=9999"])
    assert finding.status == "missing"
    assert "pytest>=9999 is needed" in finding.text


def test_a_small_amount_is_a_note() -> None:
    assert doctor._amount(doctor.GIB, 4, "more is better") == ("note", "1.0 GiB; more is better")
    assert doctor._amount(8 * doctor.GIB, 4, "more is better") == ("ok", "8.0 GiB")
    assert doctor._amount(None, 4, "x")[0] == "note"
