"""Stores, archives and runs that earlier code wrote: read, continued, repaired and verified."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from helpers.zsseg_command import zsseg
from PIL import Image

from zsseg.stages.cache.reader import Store
from zsseg.stages.cache.writer import Writer

RELEASED = Path(__file__).parent / "fixtures" / "released_0.1"
STORE = "tiny-world-train-clip-5e3d2587"
SETTINGS = (
    *("--set", "dense.size=[96,128]", "--set", "text.templates=single", "--views", "2"),
    *("--set", "regions.windows=[2,4]", "--set", "regions.minimum_tokens=1"),
    *("--set", "shard_images=4"),
)
REWRITTEN = {"history.jsonl", "sources.jsonl", "README.md", ".lock", ".writer.json", ".used"}
"""Files of a store that say when and by what it was worked on."""
FROM_THE_CLOCK = {"images_per_second", "data_wait", "cache_mb_per_second"}
CLIP = f"local-dir:{files('zsseg.stages.demo') / 'clip'}"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A copy of everything that was released."""
    return Path(shutil.copytree(RELEASED, tmp_path / "released"))


def precompute(released: Path, *more: str) -> int:
    world = released / "world"
    return zsseg(
        *("precompute", "--dataset", world / "world.yaml", "--root", world, "--teacher", CLIP),
        *("--cache", released, *SETTINGS, *more),
    )


def contents(store: Path) -> dict[str, bytes]:
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name not in REWRITTEN
    }


def without_list(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files, the group's description without its list of arrays, which 0.1 did not add."""
    group = json.loads(files["zarr.json"])
    group.pop("consolidated_metadata", None)
    return files | {"zarr.json": json.dumps(group, sort_keys=True).encode()}


def test_a_store_is_intact_and_complete(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zsseg("cache", "verify", released / STORE, "--read-data") == 0
    assert precompute(released) == 0
    out = capsys.readouterr().out
    assert "nothing to do" in out
    assert f"{STORE}: 6 of 6 images, complete" in out  # its fingerprint is in its name
    assert contents(released / STORE) == contents(RELEASED / STORE)


def test_a_store_holds_what_its_teacher_says(released: Path) -> None:
    place = ("--root", released / "world", "--teacher", CLIP)
    assert zsseg("cache", "verify", released / STORE, "--against-teacher", "6", *place) == 0


def test_an_edited_image_of_a_store_is_computed_again(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = released / "world" / "images" / "train" / "scene_003.png"
    with Image.open(image) as opened:
        mirrored = opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(image)
    assert precompute(released) == 5
    assert precompute(released, "--update") == 0
    assert "dense 1" in capsys.readouterr().out
    assert zsseg("cache", "verify", released / STORE, "--read-data") == 0


def test_a_damaged_store_is_repaired(released: Path) -> None:
    file = released / STORE / "local" / "c.1.0.0"
    file.write_bytes(file.read_bytes()[:-1])
    place = ("--root", released / "world", "--teacher", CLIP)
    assert zsseg("cache", "verify", released / STORE, "--read-data") == 5
    assert zsseg("cache", "verify", released / STORE, "--repair", *place) == 0
    assert contents(released / STORE).keys() == contents(RELEASED / STORE).keys()
    assert zsseg("cache", "verify", released / STORE, "--read-data") == 0


def test_a_lost_description_is_put_back_and_changes_no_fingerprint(released: Path) -> None:
    (released / STORE / "zarr.json").unlink()
    place = ("--root", released / "world", "--teacher", CLIP)
    assert zsseg("cache", "verify", released / STORE, "--repair", *place) == 0
    assert without_list(contents(released / STORE)) == without_list(contents(RELEASED / STORE))


def test_a_store_that_is_made_anew_is_described_as_it_was(released: Path) -> None:
    shutil.rmtree(released / STORE)
    assert precompute(released) == 0
    made, old = (without_list(contents(folder / STORE)) for folder in (released, RELEASED))
    assert made.keys() == old.keys()
    for name in old:  # machines round tokens differently, which receipts and seal then say
        if name.endswith((".json", ".jsonl")) and not name.startswith(("ledger", "seal")):
            assert made[name] == old[name], name


def test_the_same_data_written_anew_have_the_fingerprint_that_was_released(tmp_path: Path) -> None:
    old, path = Store.open(RELEASED / STORE), tmp_path / STORE
    with Writer.open(
        path,
        identity=old.identity,
        info=old.info,
        artifacts=old.manifest.artifacts,
        index=[{key: entry[key] for key in ("id", "image", "label")} for entry in old.index],
        shard_rows=old.shard_rows,
    ) as writer:
        for artifact, shards in writer.missing().items():
            for shard in shards:
                receipt = old.receipt(artifact, shard)
                for file in receipt["files"]:
                    (path / file).write_bytes((RELEASED / STORE / file).read_bytes())
                ours = ("artifact", "fingerprint", "shard", "rows", "files")
                notes = {key: receipt[key] for key in receipt.keys() - set(ours)}
                writer.commit(artifact, shard, receipt["files"], notes=notes)
        writer.seal()
    assert Store.open(path).fingerprint == old.fingerprint
    assert without_list(contents(path)) == without_list(contents(RELEASED / STORE))


def test_an_archive_is_taken_in_and_written_alike(released: Path, tmp_path: Path) -> None:
    assert zsseg("cache", "import", released / "store.tar", "--cache", tmp_path / "cache") == 0
    assert contents(tmp_path / "cache" / STORE) == contents(RELEASED / STORE)
    assert zsseg("cache", "export", tmp_path / "cache" / STORE, tmp_path / "again.tar") == 0
    assert (tmp_path / "again.tar").read_bytes() == (RELEASED / "store.tar").read_bytes()


def test_a_stopped_run_goes_on_and_ends_as_it_would_have(released: Path) -> None:
    run, world = released / "stopped_run", released / "world"
    assert zsseg(
        *("train", "--resume", "--out", run, "--config", released / "tiny.yaml"),
        *("--cache", released / STORE, "--root", world),
    ) == 0  # fmt: skip
    expected = (RELEASED / "whole_metrics.jsonl").read_text().splitlines()
    found = (run / "metrics.jsonl").read_text().splitlines()
    assert len(found) == len(expected) == 4
    for mine, theirs in zip(map(json.loads, found), map(json.loads, expected), strict=True):
        for name in theirs.keys() - FROM_THE_CLOCK:
            # Machines round differently; on the one that wrote it they are equal.
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), name
    assert zsseg("evaluate", "--run", run, "--root", world, "--split", "val") == 0
    scores = json.loads((run / "evaluation-val.json").read_text())
    whole = json.loads((RELEASED / "whole_evaluation.json").read_text())
    assert scores.keys() >= whole.keys()
    assert scores["classes"][0]["pixels"] == whole["classes"][0]["pixels"]
    assert scores["scores"] == pytest.approx(whole["scores"], abs=0.02)


def test_a_run_predicts(released: Path, tmp_path: Path) -> None:
    images = released / "world" / "images" / "val"
    out = tmp_path / "predictions"
    assert zsseg("predict", images, "--run", released / "stopped_run", "--out", out) == 0
    assert len(list(out.rglob("scene_*.png"))) >= 2
