"""Fingerprints and comparison of recipes: the settings that an artifact was made from, as JSON."""

from collections.abc import Mapping

import xxhash

from zsseg.stages.cache.disk.json_files import canonical_json, plain

_SHOWN = 80  # characters of a value in a difference


def fingerprint(recipe: object) -> str:
    """128-bit XXH3 of the canonical JSON, 32 hexadecimal digits: no protection against forgery."""
    return xxhash.xxh3_128_hexdigest(canonical_json(recipe).encode("ascii"))


def differing_fields(
    stored: object,
    wanted: object,
    *,
    prefix: str = "",
    sides: tuple[str, str] = ("stored", "asked"),
) -> list[str]:
    """Every field in which two recipes differ: `regions.merge_threshold: stored 0.8, asked 0.9`.

    `sides` names the two in the text, `prefix` the value that the fields belong to.
    """
    stored, wanted = plain(stored), plain(wanted)
    if canonical_json(stored) == canonical_json(wanted):
        return []
    if isinstance(stored, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(stored.keys() | wanted.keys())
            for line in _field(stored, wanted, key, f"{prefix}.{key}" if prefix else key, sides)
        ]
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        return [
            line
            for position, (old, new) in enumerate(zip(stored, wanted, strict=True))
            for line in differing_fields(old, new, prefix=f"{prefix}[{position}]", sides=sides)
        ]
    one, other = sides
    return [f"{prefix or 'value'}: {one} {_show(stored)}, {other} {_show(wanted)}"]


def _field(
    stored: Mapping[str, object],
    wanted: Mapping[str, object],
    key: str,
    name: str,
    sides: tuple[str, str],
) -> list[str]:
    one, other = sides
    if key not in wanted:
        return [f"{name}: {one} {_show(stored[key])}, {other} nothing"]
    if key not in stored:
        return [f"{name}: {one} nothing, {other} {_show(wanted[key])}"]
    return differing_fields(stored[key], wanted[key], prefix=name, sides=sides)


def _show(value: object) -> str:
    text = canonical_json(value)
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}..." + (f" ({len(value)} entries)" if isinstance(value, list) else "")
