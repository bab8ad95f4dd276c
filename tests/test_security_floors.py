"""Versions that the package asks for, against advisories about what it uses of them.

Looked up on 2026-12-01, in public copies of OSV, the CVE list and the packages' release notes. An
advisory belongs here when zsseg calls what it is about with files or connections that others made.
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
    "CVE-2026-39892 (buffer overflow for buffers with gaps)": ("cryptography", "46.0.7"),
    "CVE-2026-23528 (scripts through the dashboard's proxy)": ("distributed", "2026.1.0"),
    "CVE-2024-56326 (sandbox breakout by a stored str.format)": ("jinja2", "3.1.5"),
    "CVE-2025-27516 (sandbox breakout by the attr filter)": ("jinja2", "3.1.6"),
    "CVE-2025-68146 (symlink race in FileLock)": ("filelock", "3.20.1"),
    "CVE-2026-22701 (symlink race in SoftFileLock)": ("filelock", "3.20.3"),
    "CVE-2026-112906 (SoftFileLock evicts a live lock)": ("filelock", "4.2.1"),
    "CVE-2026-112403 (heap overflow in the JPEG decoder)": ("pillow", "13.0.0"),
    "CVE-2026-112398 (heap overflow in tiled JPEG data)": ("pillow", "13.0.0"),
    "CVE-2026-112395 (reads past the buffers of tiled TIFF)": ("pillow", "13.0.0"),
    "CVE-2026-96643 (endless replacement of Exif headers)": ("pillow", "13.0.0"),
    "CVE-2026-104851 (templates in reference:// file systems run code)": ("fsspec", "2026.6.0"),
    "CVE-2020-14343 (full_load runs code)": ("pyyaml", "5.4"),
    "CVE-2024-3772 (slow pattern for addresses)": ("pydantic", "2.4.0"),
    "CVE-2024-5206 (a vectoriser keeps words)": ("scikit-learn", "1.5.0"),
}
"""Advisory -> package and first version without the fault."""

NOT_CALLED = {
    "torch": "CVE-2026-4538, CVE-2026-136426, CVE-2026-136427 (torch.export, PT2, AOTI archives)",
    "cryptography": "CVE-2026-69247 (decryption of PKCS#7)",
    "dask": "CVE-2026-95897 (from_npy_stack); no fixed version was known",
    "pillow": "CVE-2026-59197, -59199, -59205 and others below 13 (filters, paste, profiles)",
    "filelock": "CVE-2026-112934, -112941, -112911 (SoftReadWriteLock, StrictSoftFileLock)",
    "huggingface-hub": "fixes named 'security' in the notes of 1.26 and 1.29, without an advisory",
    "numcodecs": "CVE-2026-124851 (Zstandard below 1.6, streams): no numcodecs with 1.6 was found",
}
"""Found as well; zsseg does not call it, or no fixed version was found."""

NOT_FOUND = {
    "albumentations",
    "google-crc32c",
    "numpy",
    "open-clip-torch",
    "rich",
    "safetensors",
    "segmentation-models-pytorch",
    "tensorboard",
    "threadpoolctl",
    "timm",
    "typer",
    "universal-pathlib",
    "xxhash",
    "zarr",
}
"""Nothing about a version from the floor on was found on 2026-12-01, which proves nothing."""


def requirements() -> dict[str, Requirement]:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {need.name.lower().replace("_", "-"): need for need in map(Requirement, stated)}


def test_every_dependency_was_looked_up() -> None:
    """A new dependency is looked up when it comes."""
    found = {package for package, _ in ADVISORIES.values()} | set(NOT_CALLED)
    assert found | NOT_FOUND == set(requirements())
    assert not NOT_FOUND & found


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
