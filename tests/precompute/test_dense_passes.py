"""Several passes: their sizes and windows by hand, their mean by a slow reference, mirroring."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clip_store import CONFIG, content, image_of, load_once, pixels, run
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.cache.reader import Store
from zsseg.stages.data.geometry import WHOLE, crop_tokens
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.precompute.check.consistency_gap import dense_config
from zsseg.stages.precompute.precompute_config import DenseConfig, LocalConfig, WindowConfig
from zsseg.stages.precompute.teacher.averaged_tokens import pass_tokens, to_grid
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher
from zsseg.stages.precompute.teacher.dense_passes import (
    DensePass,
    auto_size,
    dense_passes,
    window_starts,
)
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher


def images(*sizes: tuple[int, int], seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


# --- sizes and windows ---


def test_the_sizes_of_passes_are_multiples_of_the_stride() -> None:
    config = DenseConfig(size=(448, 576), scales=(0.05, 0.85, 1.0, 1.5))
    assert [each.size for each in dense_passes(config, (32, 32))] == [
        (32, 32),  # 22.4 x 28.8: one token at least
        (384, 480),  # 380.8 x 489.6
        (448, 576),
        (672, 864),
    ]
    (odd,) = dense_passes(DenseConfig(size=(48, 60), scales=(1.5,)), (16, 12))
    assert (odd.size, odd.grid, odd.windows) == ((80, 96), (5, 8), 1)  # 72 lies halfway: up


@pytest.mark.parametrize(
    ("side", "overlap", "starts"),
    [
        (224, 0.5, (0,)),
        (240, 0.5, (0, 16)),
        (448, 0.5, (0, 112, 224)),
        (448, 0.0, (0, 224)),
        (464, 0.0, (0, 128, 240)),  # 120 lies halfway between two multiples: up
        (672, 0.25, (0, 144, 304, 448)),  # steps of at most 168
    ],
)
def test_windows_by_hand(side: int, overlap: float, starts: tuple[int, ...]) -> None:
    assert window_starts(side, 224, 16, overlap) == starts


def test_windows_cover_every_side_and_overlap() -> None:
    for cells in range(3, 40):
        for overlap in (0.0, 0.3, 0.5, 0.99):
            starts = window_starts(cells * 8, 24, 8, overlap)
            assert starts[0] == 0
            assert starts[-1] == cells * 8 - 24
            steps = np.diff(starts)
            assert (steps > 0).all()
            assert (steps % 8 == 0).all()
            assert (steps < max(24 * (1 - overlap), 8) + 8).all()  # up to rounding


def test_windows_are_as_large_as_the_image_at_most() -> None:
    config = DenseConfig(
        size=(64, 160), scales=(1.0, 2.0), windows=WindowConfig(size=96, overlap=0.0)
    )
    small, large = dense_passes(config, (8, 8))
    assert (small.window, small.rows, small.columns) == ((64, 96), (0,), (0, 64))
    assert (large.window, large.windows) == ((96, 96), 2 * 4)
    (whole,) = dense_passes(DenseConfig(size=(64, 160)), (8, 8))
    assert (whole.window, whole.windows) == ((64, 160), 1)


def test_windows_that_do_not_fit_the_teacher_are_refused() -> None:
    config = DenseConfig(size=(64, 64), windows=WindowConfig(size=50))
    with pytest.raises(UserError, match=r"windows\.size=50.*16 x 16 pixels.*like 48"):
        dense_passes(config, (16, 16))


def test_larger_passes_take_fewer_images() -> None:
    for scale, at_once in ((0.5, 64), (1.0, 16), (1.5, 7), (8.0, 1)):
        (seen,) = dense_passes(DenseConfig(size=(64, 64), scales=(scale,)), (8, 8))
        assert seen.at_once(16, (64, 64)) == at_once


def test_the_size_of_a_data_set_follows_its_images() -> None:
    assert auto_size([(480, 640)] * 3, (16, 16)) == (480, 640)
    # Few pixels: as many as 512 x 512 has. Aspect 4:3, so 443.4 x 591.2.
    assert auto_size([(360, 480)], (16, 16)) == (448, 592)
    # Many: as many as 1024 x 1024 has. Aspect 2:1, so 724.1 x 1448.2.
    assert auto_size([(1024, 2048)] * 2, (16, 16)) == (720, 1456)
    # The odd one out does not count, for the aspect and for the pixels.
    assert auto_size([(500, 700), (500, 700), (9000, 10)], (14, 14)) == (504, 700)
    # As many upright as lying: the mean of 0.5 and 2, and 320,000 pixels.
    assert auto_size([(800, 400), (400, 800)], (8, 8)) == (504, 632)


# --- the mean ---


def tokens_of_pixels(cell: int) -> Callable[[Tensor], Tensor]:
    """A tower of one layer whose tokens depend on what else is in its image."""
    layer = torch.nn.Conv2d(3, 6, cell, stride=cell)

    @torch.no_grad()
    def encode(pixel_B3HW: Tensor) -> Tensor:
        token_BDhw: Tensor = layer(pixel_B3HW)
        return token_BDhw + 0.3 * token_BDhw.mean((2, 3), keepdim=True)

    return encode


def unit(token_Dhw: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = token_Dhw.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=0))


def test_a_finer_grid_is_the_one_that_crops_see() -> None:
    """The same bilinear map as `geometry.crop_tokens`, which training cuts crops by."""
    token_Dhw = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    found = to_grid(torch.from_numpy(token_Dhw)[None], (6, 10))[0].numpy()
    np.testing.assert_allclose(found, crop_tokens(token_Dhw, WHOLE, (6, 10)), atol=1e-6)


def triangle(cells: int, places: int) -> NDArray[np.float64]:
    """(places, cells) weights of a triangle as wide as two places, or two cells if that is more."""
    reach = max(cells / places, 1)
    weight = np.zeros((places, cells))
    for place in range(places):
        centre = (place + 0.5) * cells / places
        for cell in range(cells):
            weight[place, cell] = max(0.0, 1 - abs(cell + 0.5 - centre) / reach)
        weight[place] /= weight[place].sum()
    return weight


def test_a_coarser_grid_is_the_mean_around_each_place() -> None:
    token_Dhw = np.random.default_rng(0).normal(size=(5, 7, 12)).astype(np.float32)
    found = to_grid(torch.from_numpy(token_Dhw)[None], (3, 4))[0].numpy()
    expected = np.einsum("dhw,rh,cw->drc", token_Dhw, triangle(7, 3), triangle(12, 4))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_windows_location_by_location(flip: bool) -> None:
    torch.manual_seed(0)
    encode = tokens_of_pixels(4)
    pixel_23HW = torch.rand(2, 3, 12, 20)
    seen = DensePass((12, 20), (4, 4), (8, 8), rows=(0, 4), columns=(0, 4, 12))
    found = pass_tokens(encode, pixel_23HW, seen, (3, 5), flip=flip).numpy()

    def at(pixel_3HW: Tensor, row: int, column: int) -> NDArray[np.float64]:
        """The mean of the unit tokens of all windows that show a location."""
        tokens = []
        for top in (0, 1):
            for left in (0, 1, 3):
                if top <= row < top + 2 and left <= column < left + 2:
                    part = pixel_3HW[:, 4 * top : 4 * top + 8, 4 * left : 4 * left + 8]
                    token_Dhw = encode(part[None])[0].numpy()
                    tokens.append(unit(token_Dhw)[:, row - top, column - left])
        return np.asarray(np.mean(tokens, axis=0))

    for i in range(2):
        for row in range(3):
            for column in range(5):
                expected = at(pixel_23HW[i], row, column)
                if flip:
                    mirrored = at(pixel_23HW[i].flip(2), row, 4 - column)
                    expected = (expected + mirrored) / 2
                np.testing.assert_allclose(found[i, :, row, column], expected, atol=1e-6)


SEVERAL = DenseConfig(size=(64, 96), scales=(0.5, 1.0, 1.5), flip=True)
IN_WINDOWS = SEVERAL.model_copy(update={"windows": WindowConfig(size=32, overlap=0.4)})


@pytest.fixture(params=["tiny_clip", "tiny_cnn_clip"])
def teacher(request: pytest.FixtureRequest) -> ClipTeacher:
    return load_once(resolve_teacher(request.getfixturevalue(request.param)), device="cpu")


def test_the_mean_of_passes_is_that_of_each_alone(teacher: ClipTeacher) -> None:
    (image_HW3,) = images((50, 80))
    (found,) = teacher.dense([image_HW3], SEVERAL)
    grid, total = teacher.grid(SEVERAL), np.zeros(1)
    for seen in teacher.dense_passes(SEVERAL):
        fitted = teacher.fitted(image_HW3, seen.size)
        for mirrored in (False, True):
            pixels = np.ascontiguousarray(fitted[:, :: -1 if mirrored else 1])
            token_Dhw = unit(teacher.dense([pixels], DenseConfig(size=seen.size))[0])
            there = to_grid(torch.from_numpy(token_Dhw)[None], grid)[0].numpy()
            total = total + there[:, :, :: -1 if mirrored else 1]
    np.testing.assert_allclose(found, total / 6, atol=1e-5)
    assert found.dtype == np.float32
    assert (np.linalg.norm(found, axis=0) < 1 + 1e-6).all()


@pytest.mark.parametrize("config", [SEVERAL, IN_WINDOWS])
def test_an_image_does_not_depend_on_its_batch(teacher: ClipTeacher, config: DenseConfig) -> None:
    several = images((50, 80), (31, 200), (90, 20))
    together = teacher.dense(several, config)
    for image_HW3, token_Dhw in zip(several, together, strict=True):
        np.testing.assert_allclose(teacher.dense([image_HW3], config)[0], token_Dhw, atol=1e-5)


@pytest.mark.parametrize("config", [SEVERAL, IN_WINDOWS])
@pytest.mark.parametrize("size", [(64, 96), (50, 81)])
def test_the_map_of_the_mirrored_image_is_the_mirrored_map(
    teacher: ClipTeacher, config: DenseConfig, size: tuple[int, int]
) -> None:
    (image_HW3,) = images(size)
    mirror_HW3 = np.ascontiguousarray(image_HW3[:, ::-1])
    token_Dhw, mirrored_Dhw = teacher.dense([image_HW3, mirror_HW3], config)
    np.testing.assert_allclose(mirrored_Dhw, token_Dhw[:, :, ::-1], atol=2e-6)


def test_without_the_mirrored_pass_it_is_not(teacher: ClipTeacher) -> None:
    """The control of the test above."""
    (image_HW3,) = images((64, 96))
    mirror_HW3 = np.ascontiguousarray(image_HW3[:, ::-1])
    for config in (DenseConfig(size=(64, 96)), SEVERAL.model_copy(update={"flip": False})):
        token_Dhw, mirrored_Dhw = teacher.dense([image_HW3, mirror_HW3], config)
        assert np.abs(mirrored_Dhw - token_Dhw[:, :, ::-1]).max() > 1e-3


def test_every_pass_of_an_image_counts(teacher: ClipTeacher) -> None:
    counted: list[int] = []

    class Around:
        def __init__(self, count: int) -> None:
            counted.append(count)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    seen_teacher = replace(teacher, around_pass=Around)
    seen_teacher.dense(images((64, 96), (64, 96)), DenseConfig(size=(64, 96)))
    assert sum(counted) == 2
    counted.clear()
    seen_teacher.dense(images((64, 96), (64, 96)), SEVERAL)
    assert sum(counted) == 2 * 3 * 2


def test_tokens_that_are_not_finite_stay_so() -> None:
    """Of one pass of several they are seen where the shard is written."""
    seen = DensePass((8, 8), (4, 4), (8, 8), rows=(0,), columns=(0,))
    for wrong in (float("nan"), float("inf")):

        def encode(_: Tensor, wrong: float = wrong) -> Tensor:
            token_BDhw = torch.ones(1, 6, 2, 2)
            token_BDhw[0, 3, 1, 0] = wrong
            return token_BDhw

        found = pass_tokens(encode, torch.zeros(1, 3, 8, 8), seen, (4, 4), flip=True)
        assert not torch.isfinite(found).all()


def test_a_store_of_several_passes(tiny_world: Path, tiny_clip: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"dense": SEVERAL, "local": LocalConfig(enabled=False)})
    result = run(tiny_world, tiny_clip, tmp_path, config=config)
    store, teacher = Store.open(result.path), load_once(resolve_teacher(tiny_clip), device="cpu")
    assert result.written["dense"] == store.rows
    assert result.forwards["dense"] == store.rows * 3 * 2
    recipe = store.recipes["dense"]
    assert (recipe["scales"], recipe["flip"]) == ([0.5, 1.0, 1.5], True)
    assert "windows" not in recipe
    (token_Dhw,) = teacher.dense([pixels(image_of(tiny_world, 2))], SEVERAL)
    np.testing.assert_allclose(store.read("dense", 2), token_Dhw, atol=1e-3)
    assert dense_config(store) == SEVERAL
    once = config.model_copy(update={"dense": DenseConfig(size=(64, 96))})
    with pytest.raises(CacheError, match=r"dense\.flip: stored true, asked nothing"):
        run(tiny_world, tiny_clip, tmp_path, config=once)
    again = run(tiny_world, tiny_clip, tmp_path, config=once, update=True)
    assert set(again.written) == {"dense", "regions"}
    assert set(Store.open(again.path).recipes["dense"]) == {"teacher", "size", "path"}
    before = content(again.path)
    dense = once.dense.model_copy(update={"windows": WindowConfig(size=20)})
    unfit = once.model_copy(update={"dense": dense})
    with pytest.raises(UserError, match=r"windows\.size=20"):
        run(tiny_world, tiny_clip, tmp_path, config=unfit, update=True)
    assert content(again.path) == before
