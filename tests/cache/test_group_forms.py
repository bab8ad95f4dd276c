"""The group's zarr.json lists the arrays, or does not (zsseg 0.1): one store, one fingerprint."""

import json
from pathlib import Path

import xxhash
import zarr
from helpers.seven_row_store import artifacts, content, fill, make_store, open_writer

from zsseg.stages.cache.format.ledger import make_seal
from zsseg.stages.cache.format.manifest import group_json, read_manifest
from zsseg.stages.cache.tools.export_archive import export_store
from zsseg.stages.cache.tools.import_archive import import_store
from zsseg.stages.cache.tools.uses import note_use
from zsseg.stages.cache.verify import verify_store


def test_zarr_lists_the_arrays_without_a_word_about_other_files(tmp_path: Path) -> None:
    """pytest makes every warning an error."""
    path = make_store(tmp_path / "store")
    note_use(path)
    group = zarr.open_group(path, mode="r")
    arrays = ["dense", "norm", "regions", "status", "text"]
    assert sorted(name for name, _ in group.members(max_depth=None)) == arrays
    assert sorted(group.keys()) == sorted(name for name, _ in group.arrays()) == arrays
    described = json.loads((path / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
    for name in arrays:
        assert described[name] == json.loads((path / name / "zarr.json").read_bytes())


def as_released(path: Path) -> Path:
    """The store as zsseg 0.1 would have written it: its group does not list the arrays."""
    (path / "zarr.json").write_bytes(group_json(read_manifest(path)))
    return path


def test_the_list_of_arrays_changes_no_seal(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    listed = content(path)
    plain = content(as_released(path))
    assert {name for name in listed if listed[name] != plain[name]} == {"zarr.json"}
    sealed = json.loads(plain["seal.json"])["files"]
    assert sealed == {name: xxhash.xxh3_128_hexdigest(plain[name]) for name in sealed}
    assert verify_store(path, read_data=True) == []
    with open_writer(path) as writer:
        assert fill(writer) == {}
        writer.seal()
    assert content(path) == plain, "a store of zsseg 0.1 stays as it is"


def test_a_harmed_description_is_restored_with_its_list(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    before = content(path)
    group = before["zarr.json"]
    kept = json.loads(group) | {"more": 1}
    no_list = json.loads(group) | {"consolidated_metadata": {}}
    for harmed in (
        b"{",
        group.replace(b"toy", b"boy"),
        group.replace(b'"float16"', b'"float32"', 1),  # in the list
        group.rstrip(),
        json.dumps(kept, indent=1, sort_keys=True).encode(),
        json.dumps(no_list, indent=1, sort_keys=True).encode(),
    ):
        assert harmed != group
        (path / "zarr.json").write_bytes(harmed)
        assert [problem.file for problem in verify_store(path, read_data=False)] == ["zarr.json"]
        with open_writer(path) as writer:
            writer.seal()
        assert content(path) == before


def test_arrays_that_another_zarr_described_are_listed_as_they_lie(tmp_path: Path) -> None:
    path = as_released(make_store(tmp_path / "store"))
    file = path / "norm" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"attributes": {"by": "another"}}))
    (path / "seal.json").write_bytes(make_seal(path, read_manifest(path)))
    before = content(path)
    (path / "zarr.json").unlink()
    with open_writer(path) as writer:
        writer.seal()
    assert verify_store(path, read_data=True) == []
    assert b'"another"' in (path / "zarr.json").read_bytes()
    assert content(as_released(path)) == before


def test_an_update_gives_a_store_of_zsseg_0_1_its_list(tmp_path: Path) -> None:
    path = as_released(make_store(tmp_path / "store"))
    with open_writer(path, artifacts=artifacts(threshold=0.5), update=True) as writer:
        assert fill(writer) == {"regions": [0, 1, 2]}
        writer.seal()
    anew = tmp_path / "anew"
    with open_writer(anew, artifacts=artifacts(threshold=0.5)) as writer:
        fill(writer)
        writer.seal()
    assert content(path) == content(anew)


def test_both_forms_travel_in_archives(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store")
    for number in ("listed", "plain"):
        archive = tmp_path / f"{number}.tar"
        export_store(path, archive)
        found = import_store(archive, tmp_path / number)
        assert found.new
        assert content(found.path) == content(path)
        as_released(path)
    assert not import_store(tmp_path / "plain.tar", tmp_path / "listed").new, "the same store"
