"""A batch through the teacher: precision, memory that is too small, the way to a GPU and back."""

import logging
import weakref
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zsseg.stages.errors import ResourceError
from zsseg.stages.precompute.precompute_config import DenseConfig, Precision
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.passes import Passes
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.teacher_precision import choose_precision

CPU = torch.device("cpu")
BITS: dict[Precision, int] = {"bf16": 7, "fp16": 10}
"""Of the mantissa."""


def batch(images: int, *, size: tuple[int, int] = (4, 6), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (images, *size, 3), dtype=np.uint8)


def mean_colour(image_nHW3: Tensor) -> Tensor:
    return image_nHW3.float().mean((1, 2))


def run(passes: Passes, forward: Any, image_nHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    return passes.run(forward, passes.ready(image_nHW3))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the vectors along axis 1."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


# --- precision ---


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tower", ["vit", "cnn"])
def test_lower_precision_is_near_fp32_and_is_lower(
    precision: Precision, tower: str, tiny_clip: str, tiny_cnn_clip: str
) -> None:
    files = resolve_teacher(tiny_clip if tower == "vit" else tiny_cnn_clip)
    exact = load_teacher(files, device="cpu")
    lower = load_teacher(files, device="cpu", precision=precision)
    assert (exact.precision, lower.precision) == ("fp32", precision)
    images = list(batch(3, size=(64, 64)))
    pairs = [(exact.cls(images), lower.cls(images))]
    for path in ("raw", "value", "clearclip", "nacl"):
        config = DenseConfig.model_validate({"size": (64, 64), "path": path})
        pairs.append((exact.dense(images, config), lower.dense(images, config)))
    for right, near in pairs:
        assert near.dtype == np.float32
        assert cosine(right, near).min() > 0.999
        # One product of the last layer alone rounds by half of the last bit.
        wrong = np.abs(near - right).max() / np.abs(right).max()
        assert 2.0 ** -(BITS[precision] + 4) < wrong < 2.0 ** (3 - BITS[precision])
    prompts = ["a photo of a ball.", "sky"]
    np.testing.assert_array_equal(exact.text(prompts), lower.text(prompts))


def test_fp16_is_nearer_to_fp32_than_bf16_is(tiny_clip: str) -> None:
    """Why it is what a GPU takes: half precision is what is stored."""
    files, images = resolve_teacher(tiny_clip), list(batch(4, size=(64, 64)))
    config = DenseConfig(size=(64, 64))
    exact = load_teacher(files, device="cpu").dense(images, config)
    errors = []
    for precision in BITS:
        lower = load_teacher(files, device="cpu", precision=precision)
        errors.append(float(np.abs(lower.dense(images, config) - exact).mean()))
    assert errors[1] < errors[0] / 4


def huge(image_nHW3: Tensor) -> Tensor:
    """Token 0 of a pixel of 255 is 70,000: more than fp16 has; token 1 stays small."""
    weight_22 = torch.tensor([[274.5098, 0.0], [0.0, 0.3]])
    colour_n2 = image_nHW3[:, 0, 0, :2].float()
    return F.linear(colour_n2, weight_22)


def test_images_that_fp16_has_no_range_for_are_computed_again_in_fp32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image_nHW3 = batch(5)
    image_nHW3[:, 0, 0] = [[9, 7, 0], [255, 7, 0], [100, 201, 0], [255, 9, 0], [1, 1, 0]]
    exact = run(Passes(CPU, "fp32"), huge, image_nHW3)
    with caplog.at_level(logging.WARNING):
        passes = Passes(CPU, "fp16")
        token_n2 = run(passes, huge, image_nHW3)
    assert np.isfinite(token_n2).all()
    np.testing.assert_array_equal(token_n2[[1, 3]], exact[[1, 3]])
    # The others are what they are without such neighbours.
    np.testing.assert_array_equal(
        token_n2[[0, 2, 4]], run(Passes(CPU, "fp16"), huge, image_nHW3[[0, 2, 4]])
    )
    assert not np.array_equal(token_n2[2], exact[2])
    assert "2 of 5 images have NaN or infinity in fp16" in caplog.text
    assert passes.repeated == 2
    run(passes, huge, image_nHW3)
    assert passes.repeated == 4
    bf16 = Passes(CPU, "bf16")
    assert np.isfinite(run(bf16, huge, image_nHW3)).all()
    assert bf16.repeated == 0


def test_what_is_not_finite_in_fp32_either_is_given_up() -> None:
    """It is refused where it is written, with the image's name."""

    def forward(image_nHW3: Tensor) -> Tensor:
        return torch.full((len(image_nHW3), 2), torch.nan)

    passes = Passes(CPU, "bf16")
    assert np.isnan(run(passes, forward, batch(3))).all()
    assert passes.repeated == 3
    assert np.isnan(run(Passes(CPU, "fp32"), forward, batch(3))).all()


# --- memory ---


class Card:
    """Runs `mean_colour` on at most `fits` images at once, and keeps what a failed pass took."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.batches: list[int] = []
        self.taken: weakref.ref[Tensor] | None = None

    def __call__(self, image_nHW3: Tensor) -> Tensor:
        if self.taken is not None:
            assert self.taken() is None, "the failed pass's memory is free again"
        self.batches.append(len(image_nHW3))
        if len(image_nHW3) > self.fits:
            taken = torch.zeros(3)
            self.taken = weakref.ref(taken)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return mean_colour(image_nHW3)


def test_a_batch_that_does_not_fit_is_halved_and_the_size_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image_nHW3, card, passes = batch(16), Card(fits=5), Passes(CPU, "fp32")
    with caplog.at_level(logging.WARNING):
        token_n3 = run(passes, card, image_nHW3)
    np.testing.assert_allclose(token_n3, image_nHW3.mean((1, 2), dtype=np.float64), rtol=1e-6)
    assert card.batches == [16, 8, 4, 4, 4, 4]
    assert "too small for 16 images of 4 x 6 pixels: 8 at a time" in caplog.text
    assert "too small for 8 images of 4 x 6 pixels: 4 at a time" in caplog.text
    assert passes.largest == {(4, 6): 4}

    card.batches.clear()
    np.testing.assert_array_equal(run(passes, card, image_nHW3[:6]), token_n3[:6])
    assert card.batches == [4, 2]
    card.batches.clear()
    run(passes, card, batch(5, size=(2, 2)))  # smaller images: tried at full size
    assert card.batches == [5]


def test_not_even_one_image_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ResourceError, match=r"one image of 4 x 6.*out of memory.*dense\.size"):
        run(Passes(CPU, "fp32"), Card(fits=0), batch(3))


def test_a_real_teacher_gives_the_same_in_smaller_batches(
    tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    images, config = list(batch(6, size=(48, 64))), DenseConfig(size=(48, 64))
    whole_nD, whole_nDhw = teacher.cls(images), teacher.dense(images, config)
    visual, seen = type(teacher.model.visual).forward, []

    def small(self: Any, pixel_n3HW: Tensor) -> Any:
        seen.append(len(pixel_n3HW))
        if len(pixel_n3HW) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return visual(self, pixel_n3HW)

    monkeypatch.setattr(type(teacher.model.visual), "forward", small)
    np.testing.assert_allclose(teacher.cls(images), whole_nD, atol=1e-5)
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1]
    teacher.passes.largest[(48, 64)] = 4
    np.testing.assert_allclose(teacher.dense(images, config), whole_nDhw, atol=1e-5)


# --- device ---


def test_auto_precision_follows_the_device() -> None:
    cuda = torch.device("cuda")
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("auto", cuda) == "fp16"
    for asked in ("fp32", "bf16", "fp16"):
        assert choose_precision(asked, CPU) == choose_precision(asked, cuda) == asked


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_a_gpu_is_waited_for_once_when_all_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call to the device is noted instead of made: what is done in which order."""
    done: list[str] = []
    to = Tensor.to

    def noted_to(tensor: Tensor, *where: Any, non_blocking: bool = False, **kind: Any) -> Tensor:
        places = [place for place in where if isinstance(place, str | torch.device)]
        if not places:
            return to(tensor, *where, **kind)
        done.append(f"to {torch.device(places[0]).type}{' and go on' * non_blocking}")
        return tensor

    class Event:
        def record(self) -> None:
            done.append("mark")

        def synchronize(self) -> None:
            done.append("wait")

    def pin(tensor: Tensor) -> Tensor:
        done.append("pin")
        return tensor

    monkeypatch.setattr(Tensor, "to", noted_to)
    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    passes = Passes(torch.device("cuda"), "fp32", largest={(4, 6): 2})

    def forward(image_nHW3: Tensor) -> Tensor:
        done.append(f"compute {len(image_nHW3)}")
        return mean_colour(image_nHW3)

    ready_nHW3 = passes.ready(batch(3))
    assert done == ["pin"]
    token_n3 = passes.run(forward, ready_nHW3)
    np.testing.assert_allclose(token_n3, batch(3).mean((1, 2)), rtol=1e-6)
    there_and_back = ["to cuda and go on", "compute {}", "to cpu and go on"]
    both = [step.format(images) for images in (2, 1) for step in there_and_back]
    assert done[1:] == [*both, "mark", "wait"]


def test_mean_and_deviation_are_copied_to_the_device_once(
    tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(resolve_teacher(tiny_clip), device="cpu")
    copied, tensor = list[Any](), torch.tensor

    def noted(value: Any, **more: Any) -> Tensor:
        copied.append(value)
        return tensor(value, **more)

    monkeypatch.setattr(torch, "tensor", noted)
    for _ in range(2):
        teacher.cls(list(batch(1)))
        teacher.dense(list(batch(1)), DenseConfig(size=(64, 64)))
    assert [value for value in copied if value in (teacher.mean, teacher.std)] == [
        teacher.mean,
        teacher.std,
    ]


def convolutions(teacher: ClipTeacher) -> list[Tensor]:
    """Weights whose order in memory can be recognised."""
    weights = [w for w in teacher.model.visual.parameters() if w.ndim == 4]
    return [weight for weight in weights if weight.shape[1] > 1 and weight.shape[2] > 1]


def test_towers_give_the_same_with_their_channels_last(tiny_cnn_clip: str) -> None:
    """As on a GPU, where convolutions in half precision want them so."""
    teacher = load_teacher(resolve_teacher(tiny_cnn_clip), device="cpu")
    images, config = list(batch(2, size=(64, 64))), DenseConfig(size=(64, 64))
    before: list[NDArray[np.float32]] = [teacher.cls(images), teacher.dense(images, config)]
    teacher.model.visual.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(teacher.cls(images), before[0], atol=1e-5)
    np.testing.assert_allclose(teacher.dense(images, config), before[1], atol=1e-5)


def test_a_teacher_on_a_gpu_has_its_channels_last(
    tiny_cnn_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = open_clip.create_model

    def on_the_cpu(name: str, *, device: torch.device, **settings: Any) -> Any:
        assert device.type == "cuda"
        return create(name, device="cpu", **settings)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(open_clip, "create_model", on_the_cpu)

    there = load_teacher(resolve_teacher(tiny_cnn_clip), device="cuda")
    monkeypatch.setattr(open_clip, "create_model", create)
    here = load_teacher(resolve_teacher(tiny_cnn_clip), device="cpu")
    assert (there.device.type, here.device.type) == ("cuda", "cpu")
    for teacher, last in ((there, True), (here, False)):
        weights = convolutions(teacher)
        assert len(weights) > 5
        for weight in weights:
            assert weight.is_contiguous(memory_format=torch.channels_last) == last
