"""A student as a folder: the same predictions anywhere, and nothing in it that could run."""

import json
import pickle
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.python_run import TINY, run_world
from helpers.zsseg_command import called
from safetensors.torch import load_file

import zsseg
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.share import hub
from zsseg.stages.train.run.pretrained import check_pretrained, hashed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_clip: str) -> Iterator[Path]:
    """A folder with a `run`, its scores, and `shared`, which was made of it."""
    work = tmp_path_factory.mktemp("share")
    with pytest.MonkeyPatch.context() as patch:
        run_world(work, tiny_clip, patch, held_out=1)
        called("evaluate", "--run", work / "run", "-q")
        called("export", "--run", work / "run", "--format", "safetensors", "--out", work / "shared")
        yield work


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the shared folder, alone."""
    return Path(shutil.copytree(made / "shared", tmp_path / "shared"))


def test_it_predicts_as_the_run_does(made: Path, folder: Path, tmp_path: Path) -> None:
    image = made / "world" / "images" / "val" / "scene_000.png"
    ours, theirs = zsseg.load(folder), zsseg.load(made / "run")
    assert ours.run.step == theirs.run.step == 2
    for unsure in (0.0, 0.01):
        one, other = (each.predict(image, unsure=unsure) for each in (ours, theirs))
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.scores, other.scores)
    called("predict", image, "--run", folder, "--out", tmp_path / "out", "-q")
    assert (tmp_path / "out" / "scene_000.png").is_file()
    again = ours.save_pretrained(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_its_card_has_scores_and_licences_and_no_path(made: Path, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "zsseg"\n')
    scores = json.loads((made / "run" / "evaluation-val.json").read_text())["scores"]
    assert f"| {100 * scores['sIoU']:.1f} |" in card
    assert "Unseen classes, by their names (1): ball" in card
    assert "the licences of both apply" in card
    for path in folder.iterdir():
        assert str(made).encode() not in path.read_bytes(), path.name


def test_a_picture_is_of_an_image_that_was_given(made: Path, tmp_path: Path) -> None:
    image = made / "world" / "images" / "val" / "scene_000.png"
    into = zsseg.load(made / "run").save_pretrained(tmp_path / "with", image=image)
    assert (into / "picture.jpg").is_file()
    assert "](picture.jpg)" in (into / "README.md").read_text()
    assert not (made / "shared" / "picture.jpg").exists()


@pytest.mark.parametrize(
    "name", ["README.md", "notes.txt", "model.pt", "more/data.bin", "model.safetensors"]
)
@pytest.mark.parametrize("kind", [0, 1, 2, 5, "torch"])
def test_a_pickle_anywhere_is_refused_unread(folder: Path, name: str, kind: int | str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if isinstance(kind, str):
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": 1}, protocol=kind))
    for ask in (zsseg.load, check_pretrained):
        with pytest.raises(UserError, match=r"may hold Python objects.*nothing of .* is read"):
            ask(folder)


@pytest.mark.parametrize("header", [640, 896, 1152, 1408, 19280])
def test_the_length_of_a_header_is_no_sign_of_a_pickle(folder: Path, header: int) -> None:
    """These begin with the bytes of a pickle or of an archive."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path = folder / "more.safetensors"
    path.write_bytes(header.to_bytes(8, "little") + text.ljust(header).encode() + bytes(4))
    assert load_file(path)["a"].shape == (1,)
    assert zsseg.load(folder).run.step == 2


def test_what_zsseg_leaves_in_it_stays_readable(made: Path, folder: Path, tmp_path: Path) -> None:
    world = made / "world"
    called("evaluate", "--run", folder, "--root", world, "-q")
    called("report", folder, "--root", world, "-q")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    image = world / "images" / "val" / "scene_000.png"
    assert zsseg.load(folder).predict(image).labels.size
    (folder / "Thumbs.db").unlink()
    zsseg.load(made / "run").save_pretrained(folder, force=True)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("fault", [1, 2])
def test_one_of_two_folders_is_there_when_the_disk_fails(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    before = (folder / "config.json").read_bytes()
    rename, calls = Path.rename, []

    def failing(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == fault:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ResourceError):
        zsseg.load(made / "run").save_pretrained(folder, force=True)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["shared"]


@pytest.mark.parametrize("name", ["model.safetensors", "text.safetensors", "run.json"])
@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_a_file_that_is_not_what_was_written_is_refused(
    folder: Path, name: str, fault: str
) -> None:
    path = folder / name
    if fault == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-3] + b"   ")
    with pytest.raises(UserError, match=name):
        zsseg.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"library_name": "transformers"}, "'transformers'.*or use a newer zsseg"),
        ({"format": 2}, "not a student of this version"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "damaged: auto_map"),
        ({"step": "many"}, "damaged: step"),
        ({"files": {"../run/run.json": {"bytes": 1, "xxh3_128": "0"}}}, "not what was written"),
        ({"files": {}}, "names no model.safetensors"),
    ],
)
def test_what_is_not_known_is_refused(folder: Path, change: dict[str, object], said: str) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=said):
        zsseg.load(folder)


def test_nothing_is_trained_into_it_and_nothing_replaced(made: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="without what a training needs"):
        zsseg.train(config="baseline", out=folder, cache=made / "cache", set=TINY, resume=True)
    model = zsseg.load(made / "run")
    with pytest.raises(UserError, match="is there already"):
        model.save_pretrained(folder)
    model.save_pretrained(folder, force=True)
    (folder / "notes.txt").write_text("mine")
    bert = folder.parent / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    for place in (folder, bert):
        with pytest.raises(UserError, match="not ours"):
            model.save_pretrained(place, force=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (bert / "config.json").is_file()
    (folder.parent / "mine").mkdir()
    for place in (folder.parent / "mine", made / "run"):
        with pytest.raises(UserError, match=r"Give --out another one|no folder of a student"):
            model.save_pretrained(place, force=True)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """huggingface_hub with the documented signatures of what is used; it keeps a folder."""
    kept = SimpleNamespace(calls=[], folder=tmp_path / "hub", private=True)

    class Client:
        endpoint = "https://hub.example"

        def create_repo(
            self, repo_id: str, *, private: bool, exist_ok: bool, repo_type: str
        ) -> None:
            kept.calls.append(("create", repo_id, private, exist_ok, repo_type))

        def repo_info(self, repo_id: str) -> SimpleNamespace:
            return SimpleNamespace(private=kept.private)

        def upload_folder(
            self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
        ) -> None:
            kept.calls.append(("upload", repo_id, commit_message))
            kept.folder.mkdir()
            for file in Path(folder_path).iterdir():
                if any(fnmatch(file.name, each) for each in allow_patterns):
                    shutil.copy(file, kept.folder)

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        kept.calls.append(("get", repo_id, tuple(allow_patterns)))
        if not kept.folder.exists():
            raise OSError("no network")
        return str(kept.folder)

    monkeypatch.setattr("huggingface_hub.HfApi", Client)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return kept


def test_to_the_hub_and_back(
    made: Path, fake_hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    called("push", made / "run", "lab/street-names")
    assert capsys.readouterr().out.strip() == "https://hub.example/lab/street-names"
    assert fake_hub.calls[0] == ("create", "lab/street-names", True, True, "model")
    model = zsseg.load("lab/street-names")
    image = made / "world" / "images" / "val" / "scene_000.png"
    expected = zsseg.load(made / "run").predict(image)
    np.testing.assert_array_equal(model.predict(image).labels, expected.labels)
    assert not any("*" in pattern for pattern in fake_hub.calls[-1][2])


def test_scores_and_reports_are_not_sent(folder: Path, fake_hub: SimpleNamespace) -> None:
    for name in ("evaluation-val.json", "report.html"):
        (folder / name).write_text("{}")
    hub.push(folder, "lab/street-names")
    assert sorted(path.name for path in fake_hub.folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "run.json",
        "text.safetensors",
    ]


def test_nothing_private_goes_into_a_public_repository(
    folder: Path, fake_hub: SimpleNamespace
) -> None:
    fake_hub.private = False
    with pytest.raises(UserError, match="everybody may read it, so nothing was sent"):
        hub.push(folder, "lab/street-names")
    assert not fake_hub.folder.exists()
    hub.push(folder, "lab/street-names", private=False)
    assert fake_hub.folder.exists()


def test_the_hub_out_of_reach(folder: Path, fake_hub: SimpleNamespace) -> None:
    with pytest.raises(ResourceError, match=r"no folder of this name here.*no network"):
        zsseg.load("lab/street-names")
    for wrong in ("street", "a/b/c", "../up", "lab/"):
        with pytest.raises(UserError, match="Give ORG/NAME"):
            hub.push(folder, wrong)
    assert len(fake_hub.calls) == 1


def test_hashes_are_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"zsseg")
    assert hashed(tmp_path / "a").bytes == 5


@pytest.mark.parametrize("option", ["--fp16", "--int8", "--scores"])
def test_options_of_the_other_form_are_refused(made: Path, tmp_path: Path, option: str) -> None:
    words = ("export", "--run", made / "run", "--out", tmp_path / "x", "--format", "safetensors")
    with pytest.raises(UserError, match=f"{option}: for ONNX files only"):
        called(*words, option)
