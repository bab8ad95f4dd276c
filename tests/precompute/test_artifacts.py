"""The table of artifacts: its order, and what follows from it."""

import pytest

from zsseg.stages.precompute.make.artifact_kind import ArtifactKind
from zsseg.stages.precompute.make.artifacts import ARTIFACTS, KINDS, PER_ROW, dependents_of
from zsseg.stages.precompute.precompute_config import PrecomputeConfig


@pytest.mark.parametrize("kind", ARTIFACTS, ids=lambda kind: kind.name)
def test_an_artifact_is_made_after_what_it_is_made_from(kind: ArtifactKind) -> None:
    names = [each.name for each in ARTIFACTS]
    assert names.count(kind.name) == 1
    for name in kind.depends:
        assert names.index(name) < names.index(kind.name)


@pytest.mark.parametrize("kind", ARTIFACTS, ids=lambda kind: kind.name)
def test_an_artifact_is_made_by_shard_or_once(kind: ArtifactKind) -> None:
    assert (kind.make is None) != (kind.make_once is None)
    assert kind.per_row == (kind.name in PER_ROW)


@pytest.mark.parametrize("kind", ARTIFACTS, ids=lambda kind: kind.name)
def test_a_store_of_the_default_settings_can_do_without_what_it_does_not_have(
    kind: ArtifactKind,
) -> None:
    """So that the settings of stores that never had a new artifact still read back."""
    without = PrecomputeConfig.model_validate(dict(kind.settings_without))
    always = {"text", "index", "cls", "dense", "regions"}
    assert kind.in_store(without) == (kind.name in always)


def test_what_is_made_from_an_artifact_directly_or_not() -> None:
    assert dependents_of("pca") == ("dense", "regions", "local", "pixel_names")
    assert dependents_of("regions") == ("local",)
    assert dependents_of("text") == ("pixel_names",)
    assert dependents_of("local") == dependents_of("pixel_names") == ()
    assert dependents_of("index") == ("cls", "dense", "regions", "local", "pixel_names")


def test_labels_change_what_is_made_from_what_they_change() -> None:
    """But not all that is made from the index, which also has what images alone decide."""
    changed = [name for name in PER_ROW if KINDS[name].from_labels]
    assert changed == ["index", "regions", "local"]
    assert all(KINDS[name].from_labels for name in dependents_of("regions"))
