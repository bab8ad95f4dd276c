"""Recipes: their one text form, fingerprints, and the fields in which two differ."""

import json

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from zsseg.stages.cache.disk.json_files import canonical_json, plain
from zsseg.stages.cache.format.recipe import differing_fields, fingerprint

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_canonical_json_is_sorted_tight_and_ascii() -> None:
    assert canonical_json({"b": (1, 2.5), "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'


@settings(max_examples=50, deadline=None)
@given(plain_values)
def test_canonical_json_reads_back(value: object) -> None:
    assert json.loads(canonical_json(value)) == value == plain(value)


def test_a_file_name_that_is_no_text_survives() -> None:
    name = b"b\xff.png".decode("utf-8", "surrogateescape")
    assert canonical_json(name).isascii()
    assert plain(name) == name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), object()])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical_json({"x": value})


def test_fingerprint_is_the_hash_of_the_spelling() -> None:
    assert fingerprint({"b": 1, "a": 2}) == xxhash.xxh3_128(b'{"a":2,"b":1}').hexdigest()
    assert len(fingerprint({})) == 32


def test_fingerprint_sees_values_and_types_but_not_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": (2,)}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, 1.0, "1", True, None, [1])}) == 6


def test_difference_names_every_field() -> None:
    stored = {"regions": {"merge_threshold": 0.8, "windows": [4, 8]}, "old": 1, "same": [1]}
    wanted = {"regions": {"merge_threshold": 0.9, "windows": [4, 9]}, "new": "x", "same": [1]}
    assert differing_fields(stored, wanted) == [
        'new: stored nothing, asked "x"',
        "old: stored 1, asked nothing",
        "regions.merge_threshold: stored 0.8, asked 0.9",
        "regions.windows[1]: stored 8, asked 9",
    ]


def test_difference_takes_a_prefix_and_shortens_long_values() -> None:
    assert differing_fields([1], [2, 3], prefix="windows") == ["windows: stored [1], asked [2,3]"]
    (line,) = differing_fields(list(range(171)), list(range(170)), prefix="classes")
    assert "(171 entries)" in line
    assert "(170 entries)" in line
    assert len(line) < 250


@settings(max_examples=50, deadline=None)
@given(plain_values, plain_values)
def test_difference_is_empty_exactly_for_equal_fingerprints(stored: object, wanted: object) -> None:
    assert (differing_fields(stored, wanted) == []) == (fingerprint(stored) == fingerprint(wanted))
    assert differing_fields(stored, stored) == []
