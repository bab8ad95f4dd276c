"""Formats of the dense tokens: there and back, in equal bytes, and what they have cost."""

import json
import multiprocessing
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import CONFIG, content, image_of, load_once, pixels, run
from helpers.drawn_world import draw_world
from helpers.stage_one_faults import spoil_tokens
from numpy.typing import NDArray
from pydantic import ValidationError

from zsseg.pipeline.cli import cache
from zsseg.pipeline.cli.precompute import precompute as command
from zsseg.pipeline.tables import loss_line
from zsseg.stages.cache.dense_loss import DenseLoss, recorded_loss
from zsseg.stages.cache.format.codec import dense_specs
from zsseg.stages.cache.format.manifest import fingerprints, read_manifest
from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.verify import verify_store
from zsseg.stages.cache.writer import Writer
from zsseg.stages.data.spec import DatasetSpec, FolderPatterns, load_spec
from zsseg.stages.errors import CacheError, NonFiniteError, UserError
from zsseg.stages.evaluate.teacher_evaluation import evaluate_teacher
from zsseg.stages.precompute.make.regions import mine_regions, unlabelled_tokens
from zsseg.stages.precompute.make.token_loss import compare
from zsseg.stages.precompute.plan.recipes import store_artifacts
from zsseg.stages.precompute.plan.request import PrecomputeRequest
from zsseg.stages.precompute.precompute_config import DenseConfig, PrecomputeConfig, TextConfig
from zsseg.stages.precompute.progress import Progress
from zsseg.stages.precompute.run import precompute
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles, Traits, resolve_teacher
from zsseg.stages.train.batches.store_check import check_store
from zsseg.stages.train.run_config import RunConfig

BALL = 3  # the unseen class of the tiny world
SMALLER = ["int8", "pca:8"]  # formats that store fewer bytes than fp16


def config_of(form: str) -> PrecomputeConfig:
    dense = DenseConfig.model_validate({"size": (64, 96), "format": form})
    return CONFIG.model_copy(update={"dense": dense})


@pytest.fixture(autouse=True)
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading one costs more than these tests; equal files are the same teacher."""
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that no test changes."""
    return draw_world(tmp_path_factory.mktemp("world"), images=6)


@pytest.fixture(scope="module")
def stores(
    tmp_path_factory: pytest.TempPathFactory, world: Path, tiny_clip: str
) -> dict[str, Path]:
    """A store of it in each format, for tests that change none."""
    folder = tmp_path_factory.mktemp("stores")
    made: dict[str, Path] = {}
    for form in ("fp16", *SMALLER, "none"):
        path = run(world, tiny_clip, folder / form.replace(":", ""), config=config_of(form)).path
        assert isinstance(path, Path)
        made[form] = path
    return made


def small_config(sections: dict[str, Any]) -> RunConfig:
    student = {"encoder": "tu-resnet10t", "weights": "none"}
    return RunConfig.model_validate({"student": student, **sections})


def recipe_of(form: str) -> dict[str, str]:
    return {} if form == "fp16" else {"format": form}


def test_the_fingerprints_of_fp16_stores_are_those_of_before_there_were_formats() -> None:
    spec = DatasetSpec(
        name="two",
        layout="folder",
        classes=("sky", "ball"),
        unseen=("ball",),
        ignore=(255,),
        patterns=FolderPatterns(images="i/{split}", labels="l/{split}"),
    )
    files = TeacherFiles("t", "t", "m", None, 24, Path("w"), config_hash="c", weights_hash="w")
    traits = Traits(24, [32, 32], [8, 12], "clearclip")

    def made(form: str) -> dict[str, str]:
        config = PrecomputeConfig(
            text=TextConfig(templates="single"), dense=DenseConfig.model_validate({"format": form})
        )
        return fingerprints(store_artifacts(spec, files, config, traits))

    assert made("fp16") == {
        "text": "1d8697149f294881f6857aa72d54c972",
        "index": "2a6eb12f40b871d04b2e6f3fe3cb61ed",
        "cls": "d76564516b74bf78f8310222506c9192",
        "dense": "3847336a7971b7b6f331c1b3170935eb",
        "regions": "70cbf2ad1249a0c40bf6b1000697ca28",
        "local": "1bd3e95a9839612ce985cf8524c6576f",
    }
    for form in (*SMALLER, "none"):
        now = made(form)
        changed = {name for name, value in made("fp16").items() if now[name] != value}
        assert changed == {"dense", "regions", "local"}


def test_a_basis_that_is_lost_takes_what_was_made_with_it_along(
    stores: dict[str, Path], world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(stores["pca:8"], tmp_path / stores["pca:8"].name))
    (path / "pca_basis" / "c.0.0").unlink()
    result = run(world, tiny_clip, tmp_path, config=config_of("pca:8"))
    assert result.written == {"pca": 6, "dense": 6, "regions": 6, "local": 6}
    assert content(path) == content(stores["pca:8"])


def test_more_components_than_numbers_are_refused(
    world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"have 24 numbers\. Use at most pca:24"):
        run(world, tiny_clip, tmp_path, config=config_of("pca:25"))


@pytest.mark.parametrize("form", ["pca", "pca:0", "pca:x", "int4", "FP16", "pca:8 "])
def test_formats_that_there_are_not_are_refused(form: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        DenseConfig(format=form)


@pytest.mark.parametrize("form", ["fp16", *SMALLER, "none"])
def test_the_arrays_are_those_that_the_recipe_says(form: str, stores: dict[str, Path]) -> None:
    store = Store.open(stores[form])
    assert store.recipes["dense"].get("format") == recipe_of(form).get("format")
    (artifact,) = (a for a in store.manifest.artifacts if a.name == "dense")
    assert artifact.arrays == dense_specs(form, width=24, grid=(8, 12))


@pytest.mark.parametrize("form", SMALLER)
def test_tokens_come_back_as_the_teacher_gave_them(
    form: str, stores: dict[str, Path], world: Path, tiny_clip: str
) -> None:
    store = Store.open(stores[form])
    teacher = load_once(resolve_teacher(tiny_clip), device="cpu")
    whole_NDhw = store.read_all("dense")
    for row in range(store.rows):
        dense_Dhw = store.read("dense", row)
        assert dense_Dhw.shape == (24, 8, 12)
        assert dense_Dhw.dtype == np.float32
        np.testing.assert_array_equal(dense_Dhw, whole_NDhw[row])
        (original_Dhw,) = teacher.dense([pixels(image_of(world, row))], CONFIG.dense)
        cosine_T, _ = compare(dense_Dhw, original_Dhw, store.read_all("text"))
        assert cosine_T.min() > (0.999 if form == "int8" else 0.9)


@pytest.mark.parametrize("form", SMALLER)
def test_regions_are_mined_again_from_what_is_stored(
    form: str, stores: dict[str, Path], world: Path
) -> None:
    store = Store.open(stores[form])
    for row in range(store.rows):
        label_HW = pixels(world.parent / "labels" / "train" / f"scene_{row:03d}.png")
        visible_HW = np.where(label_HW == BALL, 255, label_HW).astype(np.uint8)
        region_hw = mine_regions(
            store.read("dense", row),
            unlabelled_tokens(visible_HW, (8, 12), CONFIG.regions.unlabelled_share),
            CONFIG.regions,
            backend="sklearn",
        )
        np.testing.assert_array_equal(store.read("regions", row), region_hw)


@pytest.mark.parametrize("form", [*SMALLER, "none"])
def test_equal_runs_make_equal_bytes(
    form: str, stores: dict[str, Path], world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    again = run(world, tiny_clip, tmp_path, config=config_of(form))
    assert content(again.path) == content(stores[form])


@pytest.mark.parametrize("form", [*SMALLER, "none"])
def test_a_run_killed_between_shards_continues_to_the_same_bytes(
    form: str,
    stores: dict[str, Path],
    world: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit, stopped_at = Writer.commit, "regions" if form == "none" else "dense"

    def killed(self: Writer, artifact: str, shard: int, *args: Any, **kwargs: Any) -> None:
        if (artifact, shard) == (stopped_at, 1):
            raise KeyboardInterrupt
        commit(self, artifact, shard, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(world, tiny_clip, tmp_path, config=config_of(form))
    result = run(world, tiny_clip, tmp_path, config=config_of(form))
    assert content(result.path) == content(stores[form])
    # And what the first shard has lost is in the measurement.
    assert result.loss == recorded_loss(stores[form], read_manifest(stores[form]))


@pytest.mark.parametrize("form", [*SMALLER, "none"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused_with_the_name_of_the_image(
    form: str,
    bad: float,
    world: Path,
    tiny_clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil_tokens(monkeypatch, image_of(world, 2), bad)
    with pytest.raises(NonFiniteError, match=r"1 row: scene_002\. |\(scene_002\);"):
        run(world, tiny_clip, tmp_path, config=config_of(form))


@pytest.mark.parametrize("form", [*SMALLER, "none"])
def test_another_format_is_refused_and_update_recomputes(
    form: str, stores: dict[str, Path], world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    shutil.copytree(stores["fp16"], tmp_path / stores["fp16"].name)
    with pytest.raises(CacheError, match=f'dense.format: stored nothing, asked "{form}"'):
        run(world, tiny_clip, tmp_path, config=config_of(form))
    result = run(world, tiny_clip, tmp_path, config=config_of(form), update=True)
    assert result.written.keys() >= {"regions", "local"} | ({"dense"} if form in SMALLER else set())
    assert not {"text", "index", "cls"} & result.written.keys()
    assert content(result.path) == content(stores[form])
    result = run(world, tiny_clip, tmp_path, update=True)
    assert content(result.path) == content(stores["fp16"])
    assert result.loss is None
    assert recorded_loss(result.path, read_manifest(result.path)) is None


def _row_sum(store: Store, row: int) -> float:
    return float(store.read("dense", row).sum(dtype=np.float64))


@pytest.mark.parametrize("form", SMALLER)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_decode_through_a_store_that_the_parent_has_used(
    form: str, method: str, stores: dict[str, Path]
) -> None:
    store = Store.open(stores[form])
    wanted = [_row_sum(store, row) for row in range(store.rows)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside zarr's thread
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.starmap(_row_sum, [(store, row) for row in range(store.rows)])
    assert found == wanted


@pytest.mark.parametrize("form", SMALLER)
def test_a_row_is_read_without_its_shard(
    form: str, world: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage elsewhere in a shard is not met."""
    monkeypatch.setattr(
        "zsseg.stages.cache.format.arrays._SMALL_SHARD", 0
    )  # as for tokens of a real CLIP
    path = run(world, tiny_clip, tmp_path, config=config_of(form)).path
    store = Store.open(path)
    wanted_Dhw = store.read("dense", 1)
    file = path / "dense" / "c.0.0.0.0"
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 4]) + data[1:])
    np.testing.assert_array_equal(store.read("dense", 1), wanted_Dhw)
    with pytest.raises(CacheError, match=r"dense/c\.0\.0\.0\.0: damaged"):
        store.read("dense", 0)


def test_the_loss_is_measured_recorded_and_shown(
    stores: dict[str, Path],
    world: Path,
    tiny_clip: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for form in SMALLER:
        manifest = read_manifest(stores[form])
        loss = recorded_loss(stores[form], manifest)
        assert loss is not None
        assert (loss.format, loss.images, loss.tokens) == (form, 6, 6 * 8 * 12)
        assert 0 < loss.cosine_worst <= loss.cosine_mean <= 1
        cache.info(stores[form])
        shown = json.loads(capsys.readouterr().out)
        assert DenseLoss(**shown["dense_loss"]) == loss
        assert shown["artifacts"]["dense"]["format"] == form
    cache.info(stores["fp16"])
    assert "dense_loss" not in json.loads(capsys.readouterr().out)
    monkeypatch.setattr("zsseg.pipeline.console.configure_logging", lambda **_: None)
    settings = ["dense.size=[64,96]", "dense.format=int8", "shard_images=4", "device=cpu"]
    for expected in ("computed: text 4", "nothing to do"):
        command(
            str(world),
            world.parent,
            teacher=tiny_clip,
            cache=tmp_path,
            settings=settings,
            quiet=True,
        )
        out = capsys.readouterr().out
        assert expected in out
        (line,) = (line for line in out.splitlines() if line.startswith("dense "))
        (path,) = tmp_path.iterdir()
        loss = recorded_loss(path, read_manifest(path))
        assert loss is not None
        assert line == loss_line(loss)
        monkeypatch.setattr(
            "zsseg.stages.precompute.teacher.clip_teacher.load_teacher", None
        )  # not measured again
    assert "of the bytes of fp16" in line
    assert "% nearest to the same class name (576 tokens of 6 images)" in line


def test_a_lost_measurement_is_made_again(
    stores: dict[str, Path], world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    path = shutil.copytree(stores["int8"], tmp_path / stores["int8"].name)
    before = recorded_loss(path, read_manifest(path))
    (path / "history.jsonl").unlink()
    assert recorded_loss(path, read_manifest(path)) is None
    result = run(world, tiny_clip, tmp_path, config=config_of("int8"))
    assert (result.written, result.loss) == ({}, before)
    assert content(path) == content(stores["int8"])


@pytest.mark.parametrize("form", ["fp16", "none"])
def test_what_loses_nothing_or_all_is_not_measured(form: str, stores: dict[str, Path]) -> None:
    assert not any("dense_loss" in entry for entry in Store.open(stores[form]).history)


def test_a_store_without_dense_tokens_has_all_else(stores: dict[str, Path]) -> None:
    without, whole = Store.open(stores["none"]), Store.open(stores["fp16"])
    assert not without.has("dense")
    assert not (stores["none"] / "dense").exists()
    assert without.recipes["dense"]["format"] == "none"
    for array in ("text", "size", "status", "views", "cls", "regions", "local", "local_ids"):
        np.testing.assert_array_equal(without.read_all(array), whole.read_all(array), array)
    assert verify_store(stores["none"], read_data=True) == []


def test_who_needs_dense_tokens_is_told_that_there_are_none(
    stores: dict[str, Path], world: Path
) -> None:
    store, spec = Store.open(stores["none"]), load_spec(str(world))
    told = r"keeps no dense tokens \(dense.format none\).*--update and --set dense.format=fp16"
    with pytest.raises(CacheError, match=told):
        store.read("dense", 0)
    with pytest.raises(CacheError, match=told):
        store.read_all("dense")
    with pytest.raises(CacheError, match=told):
        evaluate_teacher(store, spec, world.parent, progress=lambda *_: None)
    needs = {"objectives": {"sdd": 1.0, "token": "pooled"}}
    with pytest.raises(CacheError, match=told):
        check_store(store, spec, small_config(needs))
    check_store(store, spec, small_config({"self_training": {"method": "rst"}}))


def test_regions_are_mined_again_where_no_dense_tokens_are_kept(
    stores: dict[str, Path],
    world: Path,
    tiny_clip: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(stores["none"], tmp_path / stores["none"].name)
    (tmp_path / stores["none"].name / "regions" / "c.1.0.0").unlink()
    made, dense = [0], ClipTeacher.dense

    def counted(self: ClipTeacher, images: Any, config: DenseConfig) -> NDArray[np.float32]:
        made[0] += len(images)
        return dense(self, images, config)

    monkeypatch.setattr(ClipTeacher, "dense", counted)
    with caplog.at_level("INFO", logger="zsseg"):
        result = run(world, tiny_clip, tmp_path, config=config_of("none"))
    assert made == [2]  # the images of the shard concerned
    assert "keeps no dense tokens: they are made in memory for 1 shards" in (caplog.text)
    assert content(result.path) == content(stores["none"])
    config = config_of("none")
    other = config.regions.model_copy(update={"merge_threshold": 0.5})
    changed = config.model_copy(update={"regions": other})
    result = run(world, tiny_clip, tmp_path, config=changed, update=True)
    assert result.written.keys() == {"regions", "local"}
    assert made == [2 + 6]


def test_regions_without_tokens_on_the_disk_reach_their_progress(
    world: Path, tiny_clip: str, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    run(world, tiny_clip, tmp_path, config=config_of("none"), seen=seen)
    assert seen[-1].done == seen[-1].total == 5 * 6 + 4


def test_int8_of_real_tokens(shared_data: Path, tmp_path: Path) -> None:
    """The targets of the format, on the first images of CamVid's val."""
    clip = f"local-dir:{shared_data / 'camvid_clip'}"
    asked = PrecomputeRequest(
        spec=load_spec("camvid"),
        root=shared_data / "camvid",
        split="val",
        teacher=clip,
        cache=tmp_path,
        config=PrecomputeConfig(dense=DenseConfig(format="int8"), shard_images=4, device="cpu"),
        limit=4,
    )
    loss = precompute(asked, update=False, progress=lambda _: None).loss
    assert loss is not None
    assert loss.bytes <= 0.52
    assert loss.cosine_worst >= 0.999
    assert loss.agreement >= 0.99
