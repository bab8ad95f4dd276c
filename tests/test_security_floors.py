"""Versions that the package asks for, against advisories about what it uses of them.

Looked up on 2026-12-01. An advisory belongs here when zsseg calls what it is about with files or
connections that others made.
"""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]

ADVISORIES = {
    "CVE-2025-32434 (torch.load with weights_only runs code)": ("torch", "2.6.0"),
    "CVE-2026-24747 (memory corruption in the weights_only unpickler)": ("torch", "2.10.0"),
    "CVE-2026-34073 (name constraints not applied)": ("cryptography", "46.0.6"),
    "CVE-2026-23528 (scripts through the dashboard's proxy)": ("distributed", "2026.1.0"),
    "CVE-2025-27516 (sandbox breakout)": ("jinja2", "3.1.6"),
    "CVE-2025-68146 (symlink race)": ("filelock", "3.20.1"),
}
"""Advisory -> package and first version without the fault."""


def requirements() -> dict[str, Requirement]:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {need.name.lower(): need for need in map(Requirement, stated)}


@pytest.mark.parametrize("advisory", ADVISORIES)
def test_no_version_with_a_known_fault_is_allowed(advisory: str) -> None:
    package, fixed = ADVISORIES[advisory]
    lowest = min(
        Version(each.version)
        for each in requirements()[package].specifier
        if each.operator in (">=", "==", "~=")
    )
    assert lowest >= Version(fixed)


def test_ci_installs_what_is_allowed() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in lines
        if "==" in line and line[0] != "#"
    )
    for name, need in requirements().items():
        assert need.specifier.contains(pinned[name.replace("_", "-")]), need
