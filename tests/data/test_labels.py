"""Labels as they are, in every encoding, and as training sees them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as run_length

from zsseg.stages.data.labels import read_label
from zsseg.stages.data.pascal_context import RunLengthMasks, encoding_59, paint
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec, FolderPatterns, load_spec
from zsseg.stages.data.splits import list_samples
from zsseg.stages.data.visible import read_visible_label
from zsseg.stages.errors import DatasetError
from zsseg.stages.yaml_files import builtin_names


def _save(path: Path, label: object, dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(label, dtype=dtype)).save(path)
    return path


def _own(**fields: object) -> DatasetSpec:
    values = {"name": "own", "layout": "folder", "classes": ("a", "b", "c"), "patterns": {}}
    return DatasetSpec.model_validate(values | fields, strict=False)


# The unseen classes as the papers list them, by their 0-based ids in the papers' code; and our own.
UNSEEN = {
    "coco-stuff": "cow giraffe suitcase frisbee skateboard carrot scissors cardboard clouds grass "
    "playingfield river road tree wall-concrete",
    "pascal-voc": "pottedplant sheep sofa train tvmonitor",
    "pascal-context": "aeroplane bird boat cat cow fence keyboard motorbike sofa tvmonitor",
    "camvid": "pavement tree car",
    "camvid-free": "sky building pole road pavement tree sign_symbol fence car pedestrian "
    "bicyclist",
    "camvid-full": "",
    "demo": "traffic_cone stroller dog",
    "demo-full": "",
    "demo-free": "sky building road pavement grass tree fence car bus person traffic_sign "
    "traffic_cone stroller dog",
    "cityscapes": "fence vegetation truck motorcycle",
    "bdd100k": "fence vegetation truck motorcycle",
    "ade20k": "sky ceiling bed curtain rug bathtub fireplace refrigerator bridge toilet bus "
    "airplane swimming_pool bicycle flag",
}
UNSEEN_IDS = {
    "coco-stuff": (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160),
    "pascal-voc": (15, 16, 17, 18, 19),
    "pascal-context": (0, 6, 7, 14, 19, 24, 31, 33, 48, 54),
    "camvid": (4, 5, 8),
    "camvid-free": tuple(range(11)),
    "camvid-full": (),
    "demo": (11, 12, 13),
    "demo-full": (),
    "demo-free": tuple(range(14)),
    "cityscapes": (4, 8, 14, 17),
    "bdd100k": (4, 8, 14, 17),
    "ade20k": (2, 5, 7, 18, 28, 37, 49, 50, 61, 65, 80, 90, 109, 127, 149),
}
CLASSES = {
    "coco-stuff": 171,
    "pascal-voc": 20,
    "pascal-context": 59,
    "camvid": 11,
    "camvid-free": 11,
    "camvid-full": 11,
    "demo": 14,
    "demo-full": 14,
    "demo-free": 14,
    "cityscapes": 19,
    "bdd100k": 19,
    "ade20k": 150,
}


def test_builtin_descriptions_are_as_published() -> None:
    assert builtin_names("datasets") == sorted(UNSEEN)
    for name in builtin_names("datasets"):
        spec = load_spec(name)
        assert len(spec.classes) == CLASSES[name]
        assert {each.replace(" ", "_") for each in spec.unseen} == set(UNSEEN[name].split())
        assert spec.unseen_ids == UNSEEN_IDS[name]
        assert len(set(spec.prompt_names)) == len(spec.classes)


def test_raw_coco_stuff(tmp_path: Path) -> None:
    """Raw value = official label id - 1; no file holds eleven of them; the rest close ranks."""
    spec = load_spec("coco-stuff")
    without_class = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90]
    raw_V = np.array([v for v in (*range(182), 255) if v not in without_class])
    # By counting: a value's class id is the number of classes before it.
    expected_V = [VOID if v == 255 else v - sum(u < v for u in without_class) for v in raw_V]
    sample = Sample("a", tmp_path / "a.jpg", _save(tmp_path / "a.png", raw_V[None]))
    label_HW = read_label(spec, sample)
    assert label_HW.dtype == np.uint8
    np.testing.assert_array_equal(label_HW[0], expected_V)
    # Official ids of things that anyone can look up in labels.txt: 1 person, 21 cow, 182 wood.
    for number, name in {1: "person", 21: "cow", 149: "road", 182: "wood"}.items():
        assert spec.classes[label_HW[0, raw_V.tolist().index(number - 1)]] == name


def test_coco_stuff_train_ids(tmp_path: Path) -> None:
    spec = load_spec("coco-stuff")
    values_V = np.array([*range(171), 255])
    label = _save(tmp_path / "a_labelTrainIds.png", values_V[None])
    sample = Sample("a", tmp_path / "a.jpg", label, "class-ids")
    np.testing.assert_array_equal(read_label(spec, sample)[0], values_V)
    _save(tmp_path / "a_labelTrainIds.png", [[171, 3]])
    with pytest.raises(DatasetError, match=r"171 \(1 px\)"):
        read_label(spec, sample)


def test_voc_palette_with_void_borders(tmp_path: Path) -> None:
    raw_HW = np.full((6, 8), 255, dtype=np.uint8)
    raw_HW[1:5, 1:7] = 0
    raw_HW[2, 2:5] = [1, 15, 20]
    image = Image.fromarray(raw_HW)
    image.putpalette(bytes(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8)))
    image.save(tmp_path / "a.png")
    spec = load_spec("pascal-voc")
    label_HW = read_label(spec, Sample("a", tmp_path / "a.jpg", tmp_path / "a.png"))
    expected_HW = np.full((6, 8), VOID)
    expected_HW[2, 2:5] = [0, 14, 19]
    np.testing.assert_array_equal(label_HW, expected_HW)
    assert [spec.classes[c] for c in (0, 14, 19)] == ["aeroplane", "person", "tvmonitor"]


# One image in PASCAL Context's three encodings, written down from the three published lists:
# mmsegmentation's 60 classes, labels.txt (459 names) and 59_labels.txt.
CONTEXT = {
    "aeroplane": (1, 2, 1),
    "bag": (2, 9, 21),
    "bedclothes": (4, 19, 52),
    "cow": (20, 98, 10),
    "mouse": (36, 260, 41),
    "person": (37, 284, 15),
    "sky": (47, 360, 50),
    "table": (50, 397, 11),
    "tvmonitor": (55, 427, 20),
    "wood": (59, 458, 59),
    "nothing": (0, 0, 0),
}


def _context_root(root: Path) -> NDArray[np.uint8]:
    """Images and list of PASCAL Context; returns the expected label, one class a row."""
    (root / "JPEGImages").mkdir()
    (root / "ImageSets/SegmentationContext").mkdir(parents=True)
    (root / "ImageSets/SegmentationContext/train.txt").write_text("2008_000003\n")
    _save(root / "JPEGImages/2008_000003.jpg", np.zeros((len(CONTEXT), 5, 3)))
    classes = load_spec("pascal-context").classes
    ids = [classes.index(name) if name in classes else VOID for name in CONTEXT]
    return np.array(ids, dtype=np.uint8)[:, None].repeat(5, 1)


def _rows(column: int) -> NDArray[np.int64]:
    return np.array([values[column] for values in CONTEXT.values()])[:, None].repeat(5, 1)


@pytest.mark.parametrize(
    ("folder", "column"), [("SegmentationClassContext", 0), ("59_context_labels", 2)]
)
def test_context_pngs(tmp_path: Path, folder: str, column: int) -> None:
    expected_HW = _context_root(tmp_path)
    _save(tmp_path / folder / "2008_000003.png", _rows(column))
    spec = load_spec("pascal-context")
    (sample,) = list_samples(spec, tmp_path, "train")
    np.testing.assert_array_equal(read_label(spec, sample), expected_HW)


def _run_length(mask_HW: NDArray[np.bool_]) -> dict[str, object]:
    encoded = run_length.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(mask_HW.shape), "counts": encoded["counts"].decode("ascii")}


def _context_json(root: Path, segments: list[tuple[int, NDArray[np.bool_]]]) -> None:
    height, width = len(CONTEXT), 5
    image = {"file_name": "2008_000003.jpg", "image_id": 2008000003, "phase": "train"}
    content = {
        "images": [image | {"height": height, "width": width}],
        "annos_segmentation": [
            {"image_id": 2008000003, "category_id": number, "segmentation": _run_length(mask_HW)}
            for number, mask_HW in segments
        ],
    }
    (root / "trainval_merged.json").write_text(json.dumps(content))


def test_context_json(tmp_path: Path) -> None:
    expected_HW = _context_root(tmp_path)
    raw_HW = _rows(1)
    segments = [(int(v), raw_HW == v) for v in np.unique(raw_HW) if v]
    # 17 is in the 459-name list and none of the 59 classes: void, also where it covers a class.
    other_HW = np.zeros(raw_HW.shape, dtype=bool)
    other_HW[3, 4] = True
    expected_HW[3, 4] = VOID
    # A later mask covers an earlier one: sky over the last pixel of person.
    cover_HW = np.zeros(raw_HW.shape, dtype=bool)
    cover_HW[5, 4] = True
    expected_HW[5, 4] = expected_HW[6, 4]
    _context_json(tmp_path, [*segments, (17, other_HW), (360, cover_HW)])
    spec = load_spec("pascal-context")
    (sample,) = list_samples(spec, tmp_path, "train")
    np.testing.assert_array_equal(read_label(spec, sample), expected_HW)


def test_context_json_errors_name_the_image(tmp_path: Path) -> None:
    _context_root(tmp_path)
    _context_json(tmp_path, [(460, _rows(0) == 0)])
    spec = load_spec("pascal-context")
    (sample,) = list_samples(spec, tmp_path, "train")
    with pytest.raises(DatasetError, match=r"merged\.json: the label of '2008_000003'.*460 \(5 px"):
        read_label(spec, sample)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (60, 83)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_are_decoded(tmp_path: Path, shape: tuple[int, int], share: float) -> None:
    """Against pycocotools' encoder; rare and dense masks have long and short runs."""
    mask_HW = np.random.default_rng(4).random(shape) < share
    mask_HW[:, : shape[1] // 3] |= share > 0  # one long run
    masks = RunLengthMasks(*shape, segments=((187, str(_run_length(mask_HW)["counts"])),))
    np.testing.assert_array_equal(paint(masks), np.where(mask_HW, 187, 0))


@pytest.mark.parametrize("counts", ["", "0", "9", "[5", "\xff1", "0O0", "~~~~~~~~"])
def test_damaged_run_lengths_name_the_image(tmp_path: Path, counts: str) -> None:
    masks = RunLengthMasks(2, 3, ((187, counts),))
    sample = Sample("x", tmp_path / "x.jpg", tmp_path / "a.json", "context-masks", masks)
    with pytest.raises(DatasetError, match=r"a\.json: the label of 'x' is damaged \(run lengths"):
        read_label(load_spec("pascal-context"), sample)


def test_all_459_ids_match_mmsegmentations_list(tmp_path: Path) -> None:
    """Its conversion sorts 60 ids and numbers them: 0 = background, then the classes in order."""
    ids = """0 2 259 260 415 324 9 258 144 18 19 22 23 397 25 284 158 159 416 33 162 420 454 295 296
        427 44 45 46 308 59 440 445 31 232 65 354 424 68 326 72 458 34 207 80 355 85 347 220 349 360
        98 187 104 105 366 189 368 113 115"""
    order = sorted(map(int, ids.split()))
    spec = load_spec("pascal-context")
    everywhere = str(_run_length(np.ones((2, 3), dtype=bool))["counts"])
    for number in range(460):
        masks = RunLengthMasks(2, 3, ((number, everywhere),))
        sample = Sample("a", tmp_path / "a.jpg", tmp_path / "a.json", "context-masks", masks)
        expected = order.index(number) - 1 if number in order[1:] else VOID
        assert (read_label(spec, sample) == expected).all()


def test_59_labels_begin_with_vocs_classes_and_hold_every_class() -> None:
    classes, voc = load_spec("pascal-context").classes, load_spec("pascal-voc").classes
    encoding = encoding_59(classes)
    names = [classes[encoding[value]] for value in range(1, 60)]
    assert names[:20] == ["table" if name == "diningtable" else name for name in voc]
    assert sorted(names) == sorted(classes)


def test_without_encoding_a_value_is_its_class(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path / "a.jpg", _save(tmp_path / "a.png", [[0, 1, 2, 255, 9]]))
    np.testing.assert_array_equal(
        read_label(_own(ignore=(255, 9)), sample), [[0, 1, 2, VOID, VOID]]
    )


def test_wide_labels_are_encoded_too(tmp_path: Path) -> None:
    spec = _own(encoding={1000: 0, 70000: 2}, ignore=(-1,))
    label = _save(tmp_path / "a.tif", [[1000, -1], [70000, 1000]], np.int32)
    sample = Sample("a", tmp_path / "a.jpg", label)
    np.testing.assert_array_equal(read_label(spec, sample), [[0, VOID], [2, 0]])
    _save(tmp_path / "a.tif", [[1000, 1001], [-2, 1001]], np.int32)
    with pytest.raises(DatasetError, match=r"-2 \(1 px\), 1001 \(2 px\)\. List them"):
        read_label(spec, sample)


def test_unknown_values_are_named_with_their_pixels(tmp_path: Path) -> None:
    label_HW = np.arange(20, dtype=np.uint8)[None].repeat(2, 0)
    sample = Sample("a", tmp_path / "a.jpg", _save(tmp_path / "a.png", label_HW))
    text = r"a\.png: the label of 'a' .* 'own': 3 \(2 px\), 4 \(2 px\), .*10 \(2 px\) and 9 more\."
    with pytest.raises(DatasetError, match=text):
        read_label(_own(), sample)


def test_no_label_is_an_error_in_evaluation(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a\.jpg: has no label"):
        read_label(_own(), Sample("a", tmp_path / "a.jpg", None))


def test_visible_label_hides_the_unseen(tmp_path: Path) -> None:
    spec = _own(
        classes=("a", "b", "c", "d"), unseen=("b", "d"), encoding={10: 3, 11: 2, 12: 1, 13: 0}
    )
    label = _save(tmp_path / "a.png", [[10, 11, 12, 13, 255]])
    sample = Sample("a", tmp_path / "a.jpg", label)
    np.testing.assert_array_equal(read_label(spec, sample), [[3, 2, 1, 0, VOID]])
    np.testing.assert_array_equal(read_visible_label(spec, sample), [[VOID, 2, VOID, 0, VOID]])


@pytest.mark.parametrize("name", sorted(UNSEEN))
def test_no_builtin_lets_an_unseen_class_through(tmp_path: Path, name: str) -> None:
    spec = load_spec(name)
    known = spec.encoding or {v: v for v in range(len(spec.classes))}
    impossible = {"coco-stuff": spec.ignore[:-1], "ade20k": (255,), "cityscapes": (255,)}
    held = set(spec.ignore).difference(impossible.get(name, ()))
    label = _save(tmp_path / "a.png", [[*known, *held]])
    visible_HW = read_visible_label(spec, Sample("a", tmp_path / "a.jpg", label))
    shown = set(np.unique(visible_HW).tolist())
    assert shown == set(spec.seen_ids) | {VOID}
    assert not shown & set(UNSEEN_IDS[name])


@pytest.mark.parametrize(
    ("name", "value", "probably"),
    [
        ("coco-stuff", 25, "labels.txt"),
        ("coco-stuff", 182, "labels.txt"),
        ("ade20k", 255, "1 been subtracted"),
        ("cityscapes", 255, "train ids"),
    ],
)
def test_values_that_no_genuine_file_holds_are_evidence(
    tmp_path: Path, name: str, value: int, probably: str
) -> None:
    spec = load_spec(name)
    label = _save(tmp_path / "a.png", [[1, 8, value, value]])
    sample = Sample("a", tmp_path / "a.jpg", label)
    for read in (read_label, read_visible_label):
        with pytest.raises(DatasetError, match=rf"{value} \(2 px\).*{probably}"):
            read(spec, sample)
    # A description of one's own may use the value; the other form of the files holds VOID.
    own = spec.model_copy(update={"encoding": {1: 0, 8: 1, value: 2}, "ignore": ()})
    np.testing.assert_array_equal(read_label(own, sample), [[0, 1, 2, 2]])
    label = _save(tmp_path / "a.png", [[1, VOID]])
    ids = Sample("a", tmp_path / "a.jpg", label, "class-ids")
    np.testing.assert_array_equal(read_label(spec, ids), [[1, VOID]])


def test_visible_labels_do_not_depend_on_unseen_ones(tmp_path: Path) -> None:
    """Whichever unseen class, or void, stands in the file: training sees the same array."""
    spec = load_spec("camvid")
    rng = np.random.default_rng(0)
    label_HW = rng.choice([*spec.seen_ids, 11], (20, 30)).astype(np.uint8)
    hidden_HW = rng.random((20, 30)) < 0.3
    shown = []
    for number in range(3):
        noise_HW = rng.choice([*spec.unseen_ids, 11, 255], (20, 30))
        label = _save(tmp_path / f"{number}.png", np.where(hidden_HW, noise_HW, label_HW))
        shown.append(read_visible_label(spec, Sample("a", tmp_path / "a.jpg", label)))
    np.testing.assert_array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[0], shown[2])


def test_unlabelled_image_is_all_void(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = tmp_path / "a.jpg"
    Image.new("RGB", (5, 3)).save(image, exif=exif)
    spec = _own(patterns=FolderPatterns(labels=None))
    visible_HW = read_visible_label(spec, Sample("a", image, None))
    assert visible_HW.dtype == np.uint8
    np.testing.assert_array_equal(visible_HW, np.full((5, 3), VOID))


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        ({"d": "#000000"}, "colours lists what is not a class: d"),
        ({"a": "#010203", "b": [1, 2, 3]}, "colours gives '.' and '.' one colour"),
        ({"a": "red"}, "colours"),
        ({"a": [1, 2, 256]}, "colours"),
        ({"a": [1, 2]}, "colours"),
    ],
)
def test_colours_that_are_none(colours: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    values = {"classes": ["a", "b"], "patterns": {"images": "images"}, "colours": colours}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(DatasetError, match=message):
        load_spec(str(path))


def test_colours_are_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    values = {"classes": ["a", "b"], "patterns": {"images": "i"}, "colours": {"b": "#0102FF"}}
    path.write_text(yaml.safe_dump(values))
    spec = load_spec(str(path))
    assert spec.colours == {"b": (1, 2, 255)}
    assert DatasetSpec.model_validate_json(spec.model_dump_json()) == spec
    # A description without colours is written as it was before there were any.
    assert "colours" not in spec.model_copy(update={"colours": {}}).model_dump()
