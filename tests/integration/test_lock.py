"""The lock file, the pins for pip and pyproject.toml agree, so what is installed is what is declared."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
HINT = "run `make lock`"


def declared() -> dict[tuple[str, str], Requirement]:
    """The requirements of pyproject.toml by extra ("" for the core) and name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    wanted = [(extra, Requirement(line)) for extra, lines in groups.items() for line in lines]
    return {(extra, canonicalize_name(r.name)): r for extra, r in wanted}


def pinned(file: str) -> dict[str, set[Version]]:
    """The versions of a constraints file by name; a name has several where Python versions need different ones."""
    versions: dict[str, set[Version]] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (only,) = requirement.specifier
            assert only.operator == "==", line
            versions.setdefault(canonicalize_name(requirement.name), set()).add(Version(only.version))
    return versions


@pytest.fixture(scope="module")
def locked() -> list[dict]:
    return tomllib.loads((ROOT / "uv.lock").read_text())["package"]


def test_the_lock_was_made_from_the_requirements_of_today(locked: list[dict]) -> None:
    (ours,) = (p for p in locked if p["name"] == "deepscaler")
    recorded = {}
    for entry in ours["metadata"]["requires-dist"]:
        marker = entry.get("marker", "")
        extra = marker.removeprefix("extra == '").removesuffix("'")
        recorded[extra, entry["name"]] = Requirement(entry["name"] + entry.get("specifier", "")).specifier
    assert recorded == {key: requirement.specifier for key, requirement in declared().items()}, HINT


def test_pip_installs_the_versions_of_the_lock(locked: list[dict]) -> None:
    expected: dict[str, set[Version]] = {}
    for package in locked:
        if package["name"] != "deepscaler":
            expected.setdefault(package["name"], set()).add(Version(package["version"]))
    assert pinned("constraints.txt") == expected, HINT


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt"])
def test_every_requirement_is_pinned_inside_its_range(file: str) -> None:
    versions = pinned(file)
    for (extra, name), requirement in declared().items():
        assert versions.get(name), f"{file} has no {name} (extra {extra or 'none'}); {HINT}"
        assert all(v in requirement.specifier for v in versions[name]), f"{file}: {requirement}, {versions[name]}"


def test_the_lowest_versions_of_the_core_are_its_lower_bounds() -> None:
    """A lower bound that something else raises would never be tested."""
    versions = pinned("constraints-lowest.txt")
    for (extra, name), requirement in declared().items():
        lowest = {Version(s.version) for s in requirement.specifier if s.operator == ">="}
        if extra != "dev":
            assert versions[name] == lowest, f"raise the bound of {name} in pyproject.toml to {versions[name]}"
