"""The values that `auto` stands for: those of an existing store, else of the machine."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import clip_store

from zsseg.stages.cache.format.codec import BASIS
from zsseg.stages.cache.format.manifest import (
    GROUP,
    Manifest,
    fingerprints,
    group_json,
    read_manifest,
)
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns
from zsseg.stages.errors import CacheError, ResourceError
from zsseg.stages.precompute.engine.questions import auto_values
from zsseg.stages.precompute.make import backend_choice
from zsseg.stages.precompute.plan.recipes import store_artifacts
from zsseg.stages.precompute.plan.resolve_auto import resolve_auto
from zsseg.stages.precompute.precompute_config import (
    DenseConfig,
    LocalConfig,
    PrecomputeConfig,
    RegionConfig,
    TextConfig,
)
from zsseg.stages.precompute.run import PrecomputeResult
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits

SPEC = DatasetSpec(
    name="two",
    layout="folder",
    classes=("sky", "ball"),
    unseen=("ball",),
    ignore=(255,),
    patterns=FolderPatterns(images="i/{split}", labels="l/{split}"),
)
FILES = TeacherFiles("t", "t", "m", None, 24, Path("w"), config_hash="c", weights_hash="w")
TRAITS = Traits(24, [32, 32], [8, 12], "clearclip")
SEEING = {"cls", "dense", "local"}
"""Artifacts that passes over images make."""


def asked(*, precision: str = "auto", backend: str = "auto", **more: Any) -> PrecomputeConfig:
    return PrecomputeConfig.model_validate(
        {"precision": precision, "regions": {"backend": backend}, **more}
    )


def chosen(config: PrecomputeConfig) -> tuple[str, str, str]:
    return config.precision, config.regions.backend, config.resize


def begun(path: Path, config: PrecomputeConfig) -> Path:
    """A store of which there is the description only."""
    path.mkdir()
    artifacts = store_artifacts(SPEC, FILES, config, TRAITS)
    manifest = Manifest(identity={}, info={}, artifacts=artifacts, rows=2, shard_rows=2)
    (path / GROUP).write_bytes(group_json(manifest))
    return path


def resolved(config: PrecomputeConfig, path: Path) -> PrecomputeConfig:
    """The settings as this machine resolves them."""
    return resolve_auto(config, path, look=lambda asked: auto_values(None, config=asked))


def machine(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, cuml: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if cuml else None)


@pytest.mark.parametrize(
    ("gpu", "cuml", "device", "expected"),
    [
        (False, False, "auto", ("fp32", "sklearn", "pillow")),
        (False, True, "auto", ("fp32", "sklearn", "pillow")),
        (True, False, "auto", ("fp16", "torch", "torch")),
        (True, True, "auto", ("fp16", "cuml", "torch")),
        (True, True, "cpu", ("fp32", "cuml", "pillow")),
    ],
)
def test_a_new_store_takes_what_the_machine_has(
    gpu: bool,
    cuml: bool,
    device: str,
    expected: tuple[str, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, gpu=gpu, cuml=cuml)
    monkeypatch.setattr(backend_choice, "faster_backend", lambda: "cuml")
    assert chosen(resolved(asked(device=device), tmp_path / "none")) == expected
    own = asked(device=device, precision="bf16", backend="sklearn", resize="pillow")
    assert resolved(own, tmp_path / "none") == own


def test_a_new_store_with_cuml_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=False, cuml=True)
    with pytest.raises(ResourceError, match="no CUDA GPU"):
        resolved(asked(backend="cuml"), tmp_path / "none")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("backend", ["sklearn", "cuml", "torch"])
@pytest.mark.parametrize("resize", ["pillow", "torch"])
def test_a_store_goes_on_with_what_it_was_begun_with(
    precision: str, backend: str, resize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(tmp_path / "store", asked(precision=precision, backend=backend, resize=resize))
    for here in (False, True):
        machine(monkeypatch, gpu=here, cuml=here)
        now = resolved(asked(), path)
        assert chosen(now) == (precision, backend, resize)
        wanted = store_artifacts(SPEC, FILES, now, TRAITS)
        assert fingerprints(wanted) == fingerprints(read_manifest(path).artifacts)
        assert chosen(resolved(asked(precision="fp16", backend="sklearn"), path)) == (
            "fp16",
            "sklearn",
            resize,
        )


def test_a_store_of_before_is_fp32_of_scikit_learn_and_pillow_on_a_gpu_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipes name neither precision nor resizing, and have `auto` for the library."""
    path = begun(tmp_path / "store", asked())
    recipes = {artifact.name: artifact.recipe for artifact in read_manifest(path).artifacts}
    assert not any({"precision", "resize"} & recipe.keys() for recipe in recipes.values())
    assert recipes["regions"]["backend"] == "auto"
    machine(monkeypatch, gpu=True, cuml=True)
    assert chosen(resolved(asked(), path)) == ("fp32", "sklearn", "pillow")


def test_an_existing_store_needs_no_torch_to_be_recognised(tmp_path: Path) -> None:
    path = begun(tmp_path / "store", asked(precision="bf16"))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from zsseg.stages.precompute.plan.resolve_auto import resolve_auto\n"
        "from zsseg.stages.precompute.precompute_config import PrecomputeConfig\n"
        f"config = resolve_auto(PrecomputeConfig(), Path({str(path)!r}), look=lambda _: None)\n"
        "assert config.precision == 'bf16'\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_precision_and_library_change_what_follows_from_them() -> None:
    def made(form: str = "fp16", **words: str) -> dict[str, str]:
        config = asked(**words, dense={"format": form})
        return fingerprints(store_artifacts(SPEC, FILES, config, TRAITS))

    def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
        return {name for name in one if one[name] != other[name]}

    plain = made()
    assert made(precision="fp32", backend="sklearn", resize="pillow") == plain
    assert changed(plain, made(resize="torch")) == SEEING | {"regions"}
    for backend in ("cuml", "torch"):
        assert changed(plain, made(backend=backend)) == {"regions", "local"}
    for precision in ("bf16", "fp16"):
        assert changed(plain, made(precision=precision)) == SEEING | {"regions"}
        with_basis = changed(made("pca:8"), made("pca:8", precision=precision))
        assert with_basis == SEEING | {"regions", BASIS}
    assert changed(made(precision="bf16"), made(precision="fp16")) == SEEING | {"regions"}


# --- whole runs ---

CONFIG = PrecomputeConfig(
    text=TextConfig(templates="single"),
    dense=DenseConfig(size=(32, 32)),
    regions=RegionConfig(windows=(2,), minimum_tokens=1),
    local=LocalConfig(max_masks=4),
    shard_images=4,
    batch=3,
    device="cpu",
)


def run(
    world: Path, clip: str, cache: Path, *, precision: str = "auto", update: bool = False
) -> PrecomputeResult:
    config = CONFIG.model_copy(update={"precision": precision})
    return clip_store.run(world, clip, cache, config=config, update=update)


def test_a_store_of_another_precision(tiny_world: Path, tiny_clip: str, tmp_path: Path) -> None:
    exact = Store.open(run(tiny_world, tiny_clip, tmp_path / "exact").path)
    lower = run(tiny_world, tiny_clip, tmp_path / "cache", precision="bf16")
    store = Store.open(lower.path)
    assert {name for name, recipe in store.recipes.items() if "precision" in recipe} == SEEING
    assert all(store.recipes[name]["precision"] == "bf16" for name in SEEING)
    np.testing.assert_array_equal(store.read_all("text"), exact.read_all("text"))
    for name in ("cls", "dense"):
        near, right = (np.asarray(each.read_all(name), np.float64) for each in (store, exact))
        assert not np.array_equal(near, right)
        axis = 2 if name == "cls" else 1
        product = (near * right).sum(axis)
        lengths = np.linalg.norm(near, axis=axis) * np.linalg.norm(right, axis=axis)
        assert (product / lengths).min() > 0.999

    assert (
        run(tiny_world, tiny_clip, tmp_path / "cache").written == {}
    )  # `auto` takes its precision
    with pytest.raises(CacheError, match=r'cls\.precision: stored "bf16"') as caught:
        run(tiny_world, tiny_clip, tmp_path / "cache", precision="fp32")
    for name in ("dense", "local"):
        assert f"{name}.precision" in str(caught.value)
    with pytest.raises(CacheError, match=r'dense\.precision: stored "bf16", asked "fp16"'):
        run(tiny_world, tiny_clip, tmp_path / "cache", precision="fp16")

    again = run(tiny_world, tiny_clip, tmp_path / "cache", precision="fp32", update=True)
    assert set(again.written) == {"cls", "dense", "regions", "local"}
    now = Store.open(again.path)
    for name in ("cls", "dense", "regions", "local", "local_ids"):
        np.testing.assert_array_equal(now.read_all(name), exact.read_all(name))
    assert now.recipes == exact.recipes


def test_a_gpu_that_is_not_there_is_missed_before_anything_is_done(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("zsseg.stages.precompute.run.resolve_teacher", None)
    with pytest.raises(ResourceError, match="device=cuda, but torch finds no usable GPU"):
        clip_store.run(
            tiny_world,
            "local-dir:nowhere",
            tmp_path / "cache",
            config=CONFIG.model_copy(update={"device": "cuda"}),
        )
    assert not (tmp_path / "cache").exists()
