"""The settings of a store, read back from its recipes and its history."""

import functools
import json
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers.changed_settings import changed, setting_names
from helpers.drawn_world import WORLD
from helpers.seven_row_store import make_store

from zsseg.stages.cache.disk.json_files import json_lines, plain
from zsseg.stages.cache.format.manifest import (
    GROUP,
    HISTORY,
    Manifest,
    fingerprints,
    group_json,
    read_manifest,
)
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.plan.recipes import store_artifacts, store_identity, store_info
from zsseg.stages.precompute.plan.stored_settings import (
    StoredSettings,
    recall_settings,
    settings_entry,
    sound_history,
    stored_config,
)
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits
from zsseg.stages.precompute.teacher.text_embeddings import load_templates
from zsseg.stages.setting_marks import marked

FILES = TeacherFiles(
    spec="local-dir:clip",
    slug="clip",
    model="local-dir:clip",
    pretrained=None,
    width=24,
    weights=Path("clip/open_clip_model.safetensors"),
    config_hash="c" * 32,
    weights_hash="w" * 32,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DatasetSpec:
    description = tmp_path_factory.mktemp("spec") / "world.yaml"
    description.write_text(WORLD)
    return load_spec(str(description))


def traits(config: PrecomputeConfig, *, tower_paths: bool = True) -> Traits:
    """The traits of a teacher; a tower of timm takes the raw path whatever path is asked for."""
    height, width = config.dense.pixels
    path = config.dense.path if tower_paths else "raw"
    return Traits(24, [32, 32], [height // 8, width // 8], path)


def resolved(config: PrecomputeConfig) -> PrecomputeConfig:
    """The settings that `auto` stands for on a machine without a GPU."""
    library = "sklearn" if config.regions.backend == "auto" else config.regions.backend
    precision = "fp32" if config.precision == "auto" else config.precision
    resize = "pillow" if config.resize == "auto" else config.resize
    regions = config.regions.model_copy(update={"backend": library})
    return config.model_copy(update={"precision": precision, "resize": resize, "regions": regions})


def manifest(
    folder: Path, spec: DatasetSpec, config: PrecomputeConfig, said: Traits, limit: int | None
) -> Manifest:
    """The manifest of a store of these settings, as it reads back from the disk."""
    made = Manifest(
        identity=plain(store_identity(spec, "train", limit, FILES, config)),
        info=plain(store_info(spec, FILES, said)),
        artifacts=store_artifacts(spec, FILES, config, said),
        rows=6,
        shard_rows=config.shard_images,
    )
    (folder / GROUP).write_bytes(group_json(made))
    return read_manifest(folder)


VALUES: dict[str, tuple[Any, ...]] = {
    "text": ({}, {"templates": "single"}, {"templates": "coco15"}),
    "views": ({}, {"number": 3}, {"number": 1, "seed": 5, "flip": 0.25, "aspect": [0.5, 2.0]}),
    "dense": (
        {},
        {"size": [64, 96], "path": "nacl", "nacl_sigma": 2.5},
        {"size": [64, 64], "path": "value", "format": "int8"},
        {"size": [32, 64], "path": "raw", "format": "pca:7"},
        {"size": [32, 64], "format": "none"},
        {"size": [64, 96], "scales": [0.5, 1.0, 2.0], "flip": True},
        {"flip": True, "windows": {"size": 64, "overlap": 0.25}, "path": "nacl"},
    ),
    "regions": (
        {},
        {"windows": [2], "iterations": 3, "merge_threshold": 0.5, "unlabelled_share": 0.25},
        {"minimum_tokens": 9, "backend": "sklearn"},
        {"backend": "cuml"},
    ),
    "local": ({}, {"margin": 0.25, "max_masks": 7}),
    "pixel_names": (
        {},
        {"enabled": True, "stride": 8, "temperature": 0.01},
        {"enabled": True, "iterations": 3, "dilations": [1, 5]},
        {"enabled": True, "refinement": "none"},
    ),
    "shard_images": (64, 4),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "resize": ("auto", "pillow", "torch"),
}


@pytest.mark.parametrize("tower_paths", [True, False])
def test_settings_read_back_make_the_same_artifacts(
    tmp_path: Path, spec: DatasetSpec, tower_paths: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read once per set, not once per store.
    monkeypatch.setattr(
        "zsseg.stages.precompute.make.text_artifact.load_templates", functools.cache(load_templates)
    )
    configs = [
        PrecomputeConfig.model_validate_json(json.dumps(dict(zip(VALUES, each, strict=True))))
        for each in Random(0).sample(list(product(*VALUES.values())), 100)
    ]
    for config in configs:
        said = traits(config, tower_paths=tower_paths)
        stored = manifest(tmp_path, spec, config, said, None)
        found = stored_config(stored)
        assert fingerprints(store_artifacts(spec, FILES, found, said)) == fingerprints(
            stored.artifacts
        )
        assert plain(store_identity(spec, "train", None, FILES, found)) == stored.identity
        if tower_paths:  # otherwise sigma is not used, and not stored
            assert found == resolved(config)


def test_the_history_says_the_same_as_the_description(tmp_path: Path, spec: DatasetSpec) -> None:
    config = resolved(PrecomputeConfig(shard_images=4, batch=3, device="cpu"))
    made = StoredSettings(spec, "train", 5, config, traits(config))
    (tmp_path / HISTORY).write_bytes(json_lines([{"root": "/data"}, settings_entry(made)]))
    stored = manifest(tmp_path, spec, config, made.traits, 5)
    assert recall_settings(tmp_path, stored) == made
    assert recall_settings(tmp_path, None) == made


def test_the_description_counts_where_the_history_says_otherwise(
    tmp_path: Path, spec: DatasetSpec
) -> None:
    config = PrecomputeConfig(shard_images=4)
    stored = manifest(tmp_path, spec, config, traits(config), None)
    other = config.model_copy(update={"shard_images": 8, "batch": 5, "device": "cpu"})
    noted = StoredSettings(spec, "val", 5, other, traits(other))
    (tmp_path / HISTORY).write_bytes(json_lines([settings_entry(noted)]))
    found = recall_settings(tmp_path, stored)
    assert (found.split, found.limit, found.config.shard_images) == ("train", None, 4)
    assert (found.config.batch, found.config.device) == (5, "cpu")  # no recipe holds them


def test_the_history_alone_has_what_no_recipe_holds(tmp_path: Path, spec: DatasetSpec) -> None:
    config = resolved(PrecomputeConfig())
    said = traits(config)
    stored = manifest(tmp_path, spec, config, said, None)
    for name in setting_names(PrecomputeConfig):
        other = changed(config, name)
        noted = StoredSettings(spec, "train", None, other, said)
        (tmp_path / HISTORY).write_bytes(json_lines([settings_entry(noted)]))
        expected = other if name in marked(PrecomputeConfig, result=False) else config
        assert recall_settings(tmp_path, stored).config == expected, name


@pytest.mark.parametrize(
    "line", [b"", b'{"root":"/data"}\n', b'{"settings":{"split":"train"}}\n', b'{"settings":\n']
)
def test_without_a_description_and_a_history_it_says_what_to_do(
    tmp_path: Path, line: bytes
) -> None:
    (tmp_path / HISTORY).write_bytes(line)
    with pytest.raises(CacheError, match=r"zarr.json is damaged.* `zsseg precompute` command"):
        recall_settings(tmp_path, None)


def test_a_store_of_others_is_refused(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    with pytest.raises(CacheError, match="this version of zsseg"):
        recall_settings(path, read_manifest(path))


def test_what_is_left_of_a_history_is_read(tmp_path: Path) -> None:
    (tmp_path / HISTORY).write_bytes(b'{"a":1}\n\xff\xfe\n[1]\n{"b":2}\n{"c":')
    assert sound_history(tmp_path) == [{"a": 1}, {"b": 2}]
    assert sound_history(tmp_path / "nowhere") == []


def test_only_several_names_enter_the_recipe_of_text(tmp_path: Path, spec: DatasetSpec) -> None:
    first = spec.classes[0]
    one = manifest(tmp_path, spec, PrecomputeConfig(), traits(PrecomputeConfig()), None)
    several = spec.model_copy(update={"names": {first: f"{first}|thing"}})
    two = manifest(tmp_path, several, PrecomputeConfig(), traits(PrecomputeConfig()), None)
    recipes = [{each.name: each.recipe for each in made.artifacts}["text"] for made in (one, two)]
    assert set(recipes[0]) == {"teacher", "names", "templates", "prompts"}
    assert set(recipes[1]) - set(recipes[0]) == {"synonyms"}
