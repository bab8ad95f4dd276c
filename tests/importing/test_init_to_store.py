"""What `zsseg init` writes goes through preview and stage one as it is, from any folder."""

import json
from pathlib import Path

import pytest
from helpers.photo_folder import contents, halves, photographs
from helpers.zsseg_command import zsseg

from zsseg.stages.data.images import write_png

pytestmark = pytest.mark.usefixtures("one_teacher")
SMALL = ("--set", "dense.size=[64,96]", "--set", "text.templates=single", "--set", "device=cpu")


@pytest.mark.parametrize("labels", ["all", "some", "none"])
def test_init_preview_precompute(
    labels: str,
    tmp_path: Path,
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    photos = tmp_path / "my photos"
    photographs(photos, 5)
    for i in range({"all": 5, "some": 3, "none": 0}[labels]):
        write_png(photos / f"photo_{i}_mask.png", halves(0, 1))
    before = contents(photos)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert zsseg("init", "../my photos", "--classes", "road, sky, cone", "-q") == 0
    monkeypatch.chdir(tmp_path)
    description = "work/my-photos.yaml"
    assert zsseg("dataset", "verify", description, "-q") == 0
    capfd.readouterr()
    teacher = ("--teacher", tiny_clip)
    assert zsseg("preview", description, "--json", "--images", 2, *teacher, *SMALL) == 0
    assert len(json.loads(capfd.readouterr().out)["images"]) == 2
    assert zsseg("precompute", "--dataset", description, *teacher, *SMALL, "-q") == 0
    assert "images, complete" in capfd.readouterr().out
    assert contents(photos) == before
