"""CLIP, an object of the user's own, and stored maps do the same for stage one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_store import CONFIG, make, request, run
from helpers.example_teachers import COLOURS, NAMES, write_maps
from helpers.zsseg_command import zsseg

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.images import read_image
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.make.class_crops import class_masks
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.make.pooled_tokens import pooled
from zsseg.stages.precompute.make.recorded_views import seen_whole
from zsseg.stages.precompute.precompute_config import DenseConfig, PrecomputeConfig, ViewConfig
from zsseg.stages.precompute.run import precompute
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.teacher_protocol import Seen, Teacher
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes

CLASSES = ["sky", "ground", "cardboard box", "ball"]
TRAIN = (
    *("--set", "student.encoder=tu-mobilenetv3_small_050", "--set", "student.weights=none"),
    *("--set", "train.steps=2", "--set", "train.batch=2", "--set", "train.workers=0"),
    *("--set", "augmentation.short_side=48", "--set", "augmentation.crop=[32,32]"),
    *("--set", "train.device=cpu", "--set", "student.architecture=fpn"),
    *("--set", "evaluate.short_side=48", "--set", "evaluate.window=32"),
    *("--set", "evaluate.stride=32"),
)
PLAIN = """
import numpy as np
MADE = []
class Mine:
    fingerprint, width, image_size, stride = "one", 4, (8, 8), 8
    def cls(self, images):
        return images.mean((1, 2, 3))[:, None] * np.ones(4)
    def dense(self, images):
        n, height, width, _ = images.shape
        return np.ones((n, 4, height // 8, width // 8))
    def text(self, prompts):
        return np.array([[1.0, len(prompt), 2, 3] for prompt in prompts])
"""


@pytest.fixture(params=["clip", "python", "tokens"])
def spec(request: pytest.FixtureRequest, tiny_clip: str, tiny_world: Path, tmp_path: Path) -> str:
    """Each form of teacher."""
    if request.param == "clip":
        return tiny_clip
    if request.param == "python":
        return COLOURS
    return write_maps(tiny_world.parent / "images" / "train", tmp_path / "maps")


def seen(teacher: Teacher, world: Path, number: int = 3) -> list[Seen]:
    """Images of the drawn world as a teacher takes them for dense tokens."""
    files = sorted((world.parent / "images" / "train").iterdir())[:number]
    pictures = [read_image(file) for file in files]
    return [
        seen_whole(teacher, Picture(image, image[..., 0], file.stem), CONFIG.dense)
        for file, image in zip(files, pictures, strict=True)
    ]


def own(tmp_path: Path, code: str, name: str = "Mine") -> str:
    (tmp_path / "own.py").write_text(code)
    return f"python:{tmp_path / 'own.py'}:{name}"


def test_a_teacher_keeps_the_contract(spec: str, tiny_world: Path) -> None:
    files = resolve_teacher(spec, typed=True)
    assert resolve_teacher(spec, typed=True).text_recipe() == files.text_recipe()
    teacher = open_teacher(files, device="cpu")
    assert teacher.width == files.width
    images, config = seen(teacher, tiny_world), CONFIG.dense
    dense = teacher.dense(images, config)
    assert dense.shape == (3, teacher.width, *teacher.grid(config))
    whole = images if teacher.by_id else [np.full((9, 7, 3), k, np.uint8) for k in (0, 90, 200)]
    cls = teacher.cls(whole)
    text = embed_classes(teacher, CLASSES, "single")
    assert cls.shape == (3, teacher.width)
    assert text.shape == (4, teacher.width)
    for values in (dense, cls, text):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    np.testing.assert_allclose(teacher.dense(images[1:2], config), dense[1:2], atol=1e-5)
    np.testing.assert_allclose(teacher.cls(whole[2:]), cls[2:], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)


def test_from_images_to_scores(spec: str, tiny_world: Path, tmp_path: Path) -> None:
    data = ("--dataset", tiny_world, "--root", tiny_world.parent)
    settings = ("dense.size=[64,96]", "regions.windows=[2,4]", "regions.minimum_tokens=2")
    sets = [word for each in (*settings, "device=cpu") for word in ("--set", each)]
    cache, out = tmp_path / "cache", tmp_path / "run"
    assert zsseg("precompute", *data, "--teacher", spec, "--cache", cache, *sets) == 0
    (store,) = cache.iterdir()
    assert zsseg("cache", "verify", store, "--against-teacher", 2, "--teacher", spec) == 0
    assert zsseg("train", "--cache", cache, "--config", "best", "--out", out, *TRAIN) == 0
    assert zsseg("evaluate", "--run", out, "--root", tiny_world.parent) == 0
    assert (out / "evaluation-val.json").is_file()


def test_code_runs_only_where_a_person_asks(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = own(tmp_path, PLAIN)
    asked = replace(request(tiny_world, spec, tmp_path / "cache"), typed=True)
    store = precompute(asked, update=False, progress=lambda _: None).path
    ran = tmp_path / "ran"
    marked = f"from pathlib import Path\nPath({str(ran)!r}).touch()\n{PLAIN}"
    (tmp_path / "own.py").write_text(marked)
    for command in (
        ("cache", "verify", store, "--against-teacher", 1),
        ("cache", "why", store),
        ("cache", "gap", store),
    ):
        assert zsseg(*command) == 2
        assert "runs only where a person asks for it" in capsys.readouterr().err
    with pytest.raises(UserError, match="runs only where"):
        run(tiny_world, spec, tmp_path / "cache")
    assert not ran.exists()
    # Typed, it runs, and is another teacher than the store's.
    assert zsseg("cache", "verify", store, "--against-teacher", 1, "--teacher", spec) == 5
    assert "not the teacher that the store was made with" in capsys.readouterr().err
    assert ran.exists()


def test_passes_are_made_for_an_object_that_knows_one(tiny_world: Path) -> None:
    teacher = open_teacher(resolve_teacher(COLOURS, typed=True), device="cpu")
    image = read_image(min((tiny_world.parent / "images" / "train").iterdir()))
    mirrored = np.ascontiguousarray(image[:, ::-1])
    config = DenseConfig(size=(64, 96), scales=(1.0, 2.0), flip=True)
    here, there = teacher.dense([image, mirrored], config)
    np.testing.assert_allclose(there[:, :, ::-1], here, atol=1e-4)
    with pytest.raises(UserError, match=r"Give multiples of that, like \[64, 96\]"):
        teacher.grid(DenseConfig(size=(66, 97)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('fingerprint, width, image_size, stride = "one", 4, (8, 8), 8', "", "no fingerprint.*no "),
        ('"one", 4', '"", 4', "its fingerprint is ''"),
        ('"one", 4', '"one", 4.0', "its width is 4.0"),
        ("(8, 8), 8", "8, 8", "its image_size is 8"),
        ("(8, 8), 8", "(8, 8), (8, 8)", r"its stride is \(8, 8\)"),
        ("def dense", "def other", "it has no dense"),
        ("class Mine:", "class Mine:\n    text = 3\nclass Other:", "it has no cls.*its text is 3"),
        ("class Mine:", "class Mine:\n    fill_colour = 300", "its fill_colour is 300"),
        ("class Mine:", "class Yours:", "has no Mine that can be called.*there are: Yours"),
        ("class Mine:", "import no_such_module\nclass Mine:", "ModuleNotFoundError.*Install"),
        ("MADE = []", "1 / 0", r"ZeroDivisionError.*\(line 3 of "),
        ("MADE = []", "raise SystemExit(3)", "SystemExit: 3"),
        ("class Mine:", "class Mine:\n    def __init__(self, path): ...", "takes no arguments"),
    ],
)
def test_what_an_object_lacks_is_one_message(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve_teacher(own(tmp_path, PLAIN.replace(old, new)), typed=True)


def test_a_name_and_a_file_must_be_there(tmp_path: Path) -> None:
    for spec in ("python:own.py", "python:own:Mine", f"python:{tmp_path}:Mine", "python:x.py:a.b"):
        with pytest.raises(UserError, match=r"write python:FILE\.py:NAME"):
            resolve_teacher(spec, typed=True)
    with pytest.raises(ResourceError, match="cannot be read: No such file"):
        resolve_teacher("python:no_such.py:Mine", typed=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("height // 8, width // 8", "width // 8, height // 8", r"dense\(\).*gives float64 \(1, 4"),
        ("np.ones((n, 4", "np.ones((n, 5", r"not floats \(1, 4, 8, 12\)"),
        ("* np.ones(4)", "> 3", r"cls\(\) of images.*gives bool \(1, 1\)"),
        ("[1.0, len(prompt), 2, 3]", "[float('nan')] * 4", "NaN, infinity or only zeros"),
        ("return np.array([[1.0", "raise KeyError('a')\n        np.array([[1.0", "KeyError: 'a'"),
    ],
)
def test_wrong_embeddings_are_one_message(tmp_path: Path, old: str, new: str, message: str) -> None:
    files = resolve_teacher(own(tmp_path, PLAIN.replace(old, new)), typed=True)
    teacher, image = open_teacher(files, device="cpu"), np.zeros((64, 96, 3), np.uint8)
    with pytest.raises(UserError, match=message):
        assert [teacher.dense([image], CONFIG.dense), teacher.cls([image]), teacher.text(["a b"])]


def test_equal_embeddings_of_two_classes_are_refused(tmp_path: Path) -> None:
    files = resolve_teacher(own(tmp_path, PLAIN), typed=True)
    with pytest.raises(UserError, match="'cat' and 'dog' have one embedding"):
        embed_classes(open_teacher(files, device="cpu"), ["cat", "dog"], "single")


@pytest.fixture
def maps(tiny_world: Path, tmp_path: Path) -> Path:
    write_maps(tiny_world.parent / "images" / "train", tmp_path / "maps")
    return tmp_path / "maps"


def test_maps_without_cls_or_of_another_grid_are_pooled_and_resized(maps: Path) -> None:
    file = maps / "images" / "scene_001.npz"
    dense = np.load(file)["dense"].astype(np.float32)
    np.savez(file, dense=dense)
    unit = dense / np.linalg.norm(dense, axis=0)
    np.savez(maps / "images" / "scene_002.npz", dense=np.repeat(dense, 2, axis=2))
    teacher = open_teacher(resolve_teacher(f"tokens:{maps}"), device="cpu")
    np.testing.assert_allclose(teacher.cls(["scene_001"])[0], unit.mean((1, 2)), atol=1e-5)
    one, two = teacher.dense(["scene_001", "scene_002"], DenseConfig())
    np.testing.assert_array_equal(one, dense)
    assert two.shape == dense.shape
    np.testing.assert_allclose(two[:, :, 5], unit[:, :, 5], atol=0.3)


def test_a_mask_is_the_mean_of_the_tokens_at_its_pixels() -> None:
    dense = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    visible = np.repeat(np.repeat(np.array([[0, 0, 1], [0, 255, 255]], np.uint8), 4, 0), 4, 1)
    region = np.array([[0, 0, 0], [0, 1, 0]], np.uint8)
    masks = class_masks(visible, region, max_masks=8)
    unit = dense / np.linalg.norm(dense, axis=0)
    expected = [(unit[:, 0, 0] + unit[:, 0, 1] + unit[:, 1, 0]) / 3, unit[:, 0, 2], unit[:, 1, 1]]
    assert masks.ids[:2] == [0, 1]
    np.testing.assert_allclose(pooled(dense, masks), expected, atol=1e-6)


def test_the_store_of_maps_holds_them(maps: Path, tiny_world: Path, tmp_path: Path) -> None:
    store = Store.open(make(tiny_world, f"tokens:{maps}", tmp_path / "cache"))
    there = np.load(maps / "images" / "scene_003.npz")
    np.testing.assert_array_equal(store.read("dense", 3), there["dense"])
    np.testing.assert_array_equal(store.read("cls", 3)[0], there["cls"])
    assert store.recipes["local"]["of"] == "dense tokens in the mask"
    assert set(store.identity["teacher"]) == {"description", "maps"}
    assert (store.read("local_ids", 3) >= 0).sum() > 2


@pytest.mark.parametrize(
    "config",
    [
        CONFIG.model_copy(update={"dense": DenseConfig(size=(64, 96), flip=True)}),
        CONFIG.model_copy(update={"views": ViewConfig(number=2)}),
    ],
)
def test_maps_cannot_be_made_otherwise(
    maps: Path, tiny_world: Path, tmp_path: Path, config: PrecomputeConfig
) -> None:
    with pytest.raises(UserError, match="made by another system"):
        run(tiny_world, f"tokens:{maps}", tmp_path / "cache", config=config)


def _lose(maps: Path) -> None:
    (maps / "images" / "scene_004.npz").unlink()


def _save(**arrays: Any) -> Callable[[Path], None]:
    return lambda maps: np.savez(maps / "images" / "scene_004.npz", **arrays)


def _describe(**changes: Any) -> Callable[[Path], None]:
    def change(maps: Path) -> None:
        values = json.loads((maps / "teacher.json").read_text()) | changes
        (maps / "teacher.json").write_text(json.dumps(values))

    return change


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    def change(maps: Path) -> None:
        (maps / name).write_bytes(content)

    return change


def _text(names: list[str], width: int = 16, value: float = 1.0) -> Callable[[Path], None]:
    text = np.full((len(names), width), value) + np.eye(len(names), width)
    return lambda maps: np.savez(maps / "text.npz", names=np.array(names), text=text)


GOOD = np.ones((16, 8, 12), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose, r"no map of 1 image \(scene_004\)"),
        (_save(dense=np.ones((15, 8, 12))), r"dense is float64 \(15, 8, 12\), not \(16, h, w\)"),
        (_save(dense=GOOD.astype(np.int32)), "dense is int32"),
        (_save(dense=GOOD * np.nan), "scene_004.npz: NaN or infinity in dense"),
        (_save(dense=GOOD, cls=np.ones(3)), r"cls is float64 \(3,\)"),
        (_save(tokens=GOOD), "has no array 'dense'"),
        (_save(dense=np.array([{"a": 1}], dtype=object)), "dense is object"),
        (_write("images/scene_004.npz", b"nothing"), "is no intact .npz file"),
        (_describe(fingerprint=""), "fingerprint: String should have at least 1"),
        (_describe(width="16"), "width: Input should be a valid integer"),
        (_describe(grid=[8, 5000]), "a side above 1024"),
        (_describe(colour=1), "colour: no such setting"),
        (_describe(width=17), r"text is float32 \(4, 16\), not \(C, 17\)"),
        (_write("teacher.json", b"{" * 9999), "does not say what the maps are"),
        (_text(NAMES[:3]), "has no embedding of 'ball'; it has 'sky'"),
        (_text(NAMES, value=np.nan), "the embedding of 'sky' has NaN"),
        (_text([*NAMES, "sky"]), "has 4 different names and 5 embeddings"),
    ],
)
def test_wrong_maps_are_one_message(
    change: Callable[[Path], None], message: str, maps: Path, tiny_world: Path, tmp_path: Path
) -> None:
    change(maps)
    with pytest.raises(UserError, match=message):
        run(tiny_world, f"tokens:{maps}", tmp_path / "cache")


def test_a_header_that_claims_more_than_is_there_is_refused(maps: Path) -> None:
    import zipfile

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (16, 1000, 1000000), }"
    body = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(maps / "images" / "scene_000.npz", "w") as archive:
        archive.writestr("dense.npy", body)
    teacher = open_teacher(resolve_teacher(f"tokens:{maps}"), device="cpu")
    with pytest.raises(UserError, match=r"dense is float32 \(16, 1000, 1000000\)"):
        teacher.dense(["scene_000"], DenseConfig())
