"""Colours follow names, and are told apart with any colour vision."""

import math
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.evaluate.colours import cielab, name_colours, safe_palette, seen_colours

STREET = ("road", "sky", "building", "car", "tram")


def rgb(names: tuple[str, ...], spec: DatasetSpec | None = None) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(colour.tolist())
        for name, colour in zip(names, name_colours(names, spec), strict=False)
    }


def test_a_name_has_its_colour_in_any_list_and_order() -> None:
    alone = {name: rgb((name,))[name] for name in STREET}
    assert rgb(STREET) == alone
    assert rgb(STREET[::-1]) == alone
    assert rgb((*STREET, "anything else"))["tram"] == alone["tram"]
    for same in ("Tram", " tram ", "tram|streetcar"):
        assert rgb((same,))[same] == alone["tram"]


def test_another_session_has_the_same_colours() -> None:
    """Python's own hash of a text differs between sessions."""
    code = (
        "from zsseg.stages.evaluate.colours import name_colours\n"
        f"print(name_colours({STREET!r})[:{len(STREET)}].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([list(colour) for colour in rgb(STREET).values()])


def test_what_other_names_meet_depends_on_no_order() -> None:
    """With 255 names many meet in their first colour."""
    names = tuple(f"name {number}" for number in range(255))
    found = rgb(names)
    assert len(set(found.values())) == 255
    assert (0, 0, 0) not in found.values()
    shuffled = tuple(np.random.default_rng(0).permutation(names).tolist())
    assert rgb(shuffled) == found


def test_void_and_what_is_behind_the_names_is_black() -> None:
    colours = name_colours(STREET)
    assert colours.shape == (256, 3)
    assert not colours[len(STREET) :].any()


def test_own_colours_of_a_data_set() -> None:
    camvid = load_spec("camvid")
    own = rgb(camvid.classes, camvid)
    assert own["road"] == (128, 64, 128)
    assert own == {name: tuple(colour) for name, colour in camvid.colours.items()}
    # By the name for prompts too, and whatever the case; other names take none of them.
    asked = rgb(("Traffic Sign", "tram", "bicycle"), camvid)
    assert asked["Traffic Sign"] == own["sign symbol"]
    assert asked["bicycle"] == own["bicyclist"]
    assert asked["tram"] == rgb(("tram",))["tram"]
    # The copy of the description in an older store or run has no colours.
    old = camvid.model_copy(update={"colours": {}})
    assert rgb(camvid.classes, old) == own
    assert rgb(camvid.classes, old.model_copy(update={"name": "mine"})) == rgb(camvid.classes)


def test_chosen_colours_stand_for_the_data_set_s_own() -> None:
    camvid = load_spec("camvid")
    chosen = name_colours(("sky", "road"), camvid, chosen={"Sky": (1, 2, 3)})[:2].tolist()
    assert chosen[0] == [1, 2, 3]
    assert (
        tuple(chosen[1])
        == rgb(
            camvid.classes,
            camvid.model_copy(update={"name": "mine", "colours": {"sky": (1, 2, 3)}}),
        )["road"]
    )
    by_name = name_colours(camvid.classes, camvid, chosen={})
    np.testing.assert_array_equal(by_name, name_colours(camvid.classes))


def test_classes_of_a_run_keep_their_colours_beside_other_names() -> None:
    """Also where another name would come before them."""
    spec = load_spec("ade20k")
    own = rgb(spec.classes, spec)
    new = tuple(f"thing {number}" for number in range(60))
    beside = rgb((*new, *spec.classes), spec)
    assert {name: beside[name] for name in spec.classes} == own


def test_cielab_of_known_colours() -> None:
    known = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [119, 119, 119]])
    # Published values of the sRGB primaries, white and middle grey under D65.
    expected = [
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
        [100.0, 0.0, 0.0],
        [50.03, 0.0, 0.0],
    ]
    np.testing.assert_allclose(cielab(known.astype(np.float64)), expected, atol=0.02)


def test_greys_look_the_same_with_any_colour_vision() -> None:
    greys = np.arange(0, 256, 15, dtype=np.float64)[:, None].repeat(3, axis=1)
    seen_NV3 = seen_colours(greys)
    np.testing.assert_allclose(seen_NV3, seen_NV3[:, :1].repeat(4, axis=1), atol=0.1)


# From Sharma, Wu and Dalal 2005, table 1.
@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000(one: tuple[float, ...], other: tuple[float, ...], distance: float) -> None:
    assert ciede2000(one, other) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("vision", ["protan", "deutan"])
@pytest.mark.parametrize("dataset", ["camvid", "cityscapes", "pascal-voc"])
def test_names_of_one_list_are_told_apart(vision: str, dataset: str) -> None:
    """By another formula and another model of dichromats than the colours were chosen by."""
    names = load_spec(dataset).classes
    lab = cielab(dichromat(name_colours(names)[: len(names)].astype(np.float64), vision))
    pairs = [(one, other) for one in range(len(lab)) for other in range(one)]
    # About 1 is just noticeable side by side.
    assert min(ciede2000(lab[one], lab[other]) for one, other in pairs) > 3


def test_the_palette() -> None:
    colours = safe_palette()
    assert colours.shape == (256, 3)
    assert len(np.unique(colours, axis=0)) == 256
    seen_NV3 = seen_colours(colours.astype(np.float64))
    apart = np.linalg.norm(seen_NV3[:, None] - seen_NV3[None], axis=-1).min(-1)
    np.fill_diagonal(apart, np.inf)
    assert apart[:21, :21].min() > 13
    assert apart.min() > 2.9


def dichromat(rgb_N3: NDArray[np.float64], vision: str) -> NDArray[np.float64]:
    """Viénot, Brettel and Mollon 1999: one kind of cone is missing; sRGB 0..255 in and out."""
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    lms_N3 = ((rgb_N3 / 255) ** 2.2) @ to_lms.T
    if vision == "protan":
        lms_N3[:, 0] = 2.02344 * lms_N3[:, 1] - 2.52581 * lms_N3[:, 2]
    else:
        lms_N3[:, 1] = 0.494207 * lms_N3[:, 0] + 1.24827 * lms_N3[:, 2]
    seen_N3: NDArray[np.float64] = np.linalg.solve(to_lms, lms_N3.T).T.clip(0, 1) ** (1 / 2.2) * 255
    return seen_N3


def ciede2000(one: object, other: object) -> float:
    """Sharma, Wu and Dalal 2005, equations 2 to 22, written out."""
    (l1, a1, b1), (l2, a2, b2) = (
        np.array(each, dtype=np.float64).tolist() for each in (one, other)
    )
    mean_c = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    g = 0.5 * (1 - math.sqrt(mean_c**7 / (mean_c**7 + 25**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    dl, dc = l2 - l1, c2 - c1
    dh = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    if c1 * c2 == 0:
        mean_h = h1 + h2
    elif abs(h1 - h2) <= 180:
        mean_h = (h1 + h2) / 2
    else:
        mean_h = (h1 + h2 + (360 if h1 + h2 < 360 else -360)) / 2
    t = (
        1
        - 0.17 * math.cos(math.radians(mean_h - 30))
        + 0.24 * math.cos(math.radians(2 * mean_h))
        + 0.32 * math.cos(math.radians(3 * mean_h + 6))
        - 0.20 * math.cos(math.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / math.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    r_c = 2 * math.sqrt(mean_c**7 / (mean_c**7 + 25**7))
    r_t = -r_c * math.sin(math.radians(60 * math.exp(-(((mean_h - 275) / 25) ** 2))))
    return math.sqrt(
        (dl / s_l) ** 2 + (dc / s_c) ** 2 + (dh / s_h) ** 2 + r_t * (dc / s_c) * (dh / s_h)
    )
