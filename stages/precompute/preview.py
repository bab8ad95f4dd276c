"""What the teacher alone makes of class names on a few images: `zsseg preview`; nothing is stored.

Dense tokens and the map of names are made as a store with the same settings has them, for
self-training with source `teacher` to learn from. No label is looked for.
Legend: C classes, H W pixels, y x grid of the map of names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.format.name_scores import SCORE_OF_CODE
from zsseg.stages.data.images import read_image, resize_image
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import VOID, DatasetSpec
from zsseg.stages.data.splits import check_split, training_samples
from zsseg.stages.device import choose_device
from zsseg.stages.errors import DatasetError
from zsseg.stages.precompute.make.dense_artifact import unkept_tokens
from zsseg.stages.precompute.make.names_artifact import NAME, Naming, map_grid, name_arrays
from zsseg.stages.precompute.make.pictures import Picture
from zsseg.stages.precompute.make.token_loss import spread
from zsseg.stages.precompute.plan.auto_size import sampled_shapes
from zsseg.stages.precompute.precompute_config import PrecomputeConfig
from zsseg.stages.precompute.teacher.dense_passes import auto_size
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.resizing import choose_resize
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.teacher_precision import choose_precision
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

LONGEST = 1280
"""Pixels of the longer side of a picture shown; the teacher sees the image itself. [ours]"""


@dataclass(frozen=True)
class PreviewRequest:
    """Some images of a split, the names to look for, and the teacher with its settings."""

    spec: DatasetSpec
    root: Path
    """Folder of the data set; never written to."""
    split: str
    teacher: str
    """Named in one of the forms that `teacher_files.py` lists, by a person: its code may run."""
    config: PrecomputeConfig
    images: int
    """At most so many, evenly spread over the split."""


@dataclass(frozen=True)
class NamedImage:
    """An image and the names that the teacher gives its pixels."""

    id: str
    picture_HW3: NDArray[np.uint8]
    """No side longer than LONGEST."""
    map_4yx: NDArray[np.uint8]
    """See `names_artifact.name_arrays`."""


@dataclass(frozen=True)
class TeacherPreview:
    """What the teacher made of the images."""

    classes: tuple[str, ...]
    in_split: int
    """Images of the split."""
    size: tuple[int, int]
    """Height and width in pixels of `dense.size`."""
    dense_path: str
    """The path that the teacher takes."""
    passes: int
    """Forward passes per image."""
    images: tuple[NamedImage, ...]
    failures: dict[str, str]
    """Id -> why an image was left out."""


@dataclass(frozen=True)
class NameFigures:
    """What the teacher found of a class, in all images together or in one."""

    name: str
    share: float
    """Of the pixels of all images, each image counting the same."""
    images: int
    """In which it is somewhere the best name."""
    confidence: float | None
    """Mean score where it is the best name; None: nowhere."""
    second: float
    """Share of the pixels where it is the second best name."""
    behind: str | None
    """The name that is most often the best one there."""


def preview_names(
    request: PreviewRequest, *, progress: Callable[[int, int], None]
) -> TeacherPreview:
    """Let the teacher name the pixels of some images; `progress` gets those done and all.

    An image that cannot be read is left out and told. Raises DatasetError when none can be, or the
    split is not there, and UserError for settings that do not fit the teacher.
    """
    check_split(request.spec, request.split)
    # As if no class were seen: then no label is looked for.
    unlabelled = request.spec.model_copy(update={"unseen": request.spec.classes})
    samples = training_samples(unlabelled, request.root, request.split)
    teacher, config = _teacher(request, samples)
    naming = Naming(
        text_CD=embed_classes(
            teacher,
            request.spec.prompt_names,
            config.text.templates,
            synonyms=config.text.synonyms,
        ),
        unseen_ids=(),
        grid=map_grid(config.dense.pixels, config.pixel_names.stride),
        config=config.pixel_names,
    )
    chosen = [samples[place] for place in spread(np.arange(len(samples)), request.images)]
    images, failures = [], {}
    for done, sample in enumerate(chosen, start=1):
        try:
            images.append(_named(teacher, sample, naming, config))
        except DatasetError as error:
            failures[sample.id] = str(error)
        progress(done, len(chosen))
    if not images:
        raise DatasetError(
            f"{request.root}: none of the {len(chosen)} images looked at can be read. Mend them. "
            f"The first: {next(iter(failures.values()))}"
        )
    return TeacherPreview(
        classes=request.spec.classes,
        in_split=len(samples),
        size=config.dense.pixels,
        dense_path=teacher.dense_path(config.dense),
        passes=(1 + config.dense.flip)
        * sum(each.windows for each in teacher.dense_passes(config.dense)),
        images=tuple(images),
        failures=failures,
    )


def name_figures(
    maps: Sequence[NDArray[np.uint8]], classes: Sequence[str]
) -> tuple[NameFigures, ...]:
    """The figures of each class in maps (4, y, x) of names of one grid, in class order."""
    map_4Nyx = np.stack(maps, axis=1)
    best_Nyx, second_Nyx = map_4Nyx[0], map_4Nyx[1]
    score_Nyx = SCORE_OF_CODE[map_4Nyx[2]].astype(np.float64)
    figures = []
    for index, name in enumerate(classes):
        won_Nyx, next_Nyx = best_Nyx == index, second_Nyx == index
        winners_C = np.bincount(best_Nyx[next_Nyx], minlength=len(classes))
        figures.append(
            NameFigures(
                name=name,
                share=float(won_Nyx.mean()),
                images=int(won_Nyx.any((1, 2)).sum()),
                confidence=float(score_Nyx[won_Nyx].mean()) if won_Nyx.any() else None,
                second=float(next_Nyx.mean()),
                behind=classes[int(winners_C.argmax())] if next_Nyx.any() else None,
            )
        )
    return tuple(figures)


def _teacher(
    request: PreviewRequest, samples: Sequence[Sample]
) -> tuple["Teacher", PrecomputeConfig]:
    """The teacher, loaded as a new store would load it, and the settings without `auto`."""
    alone = lone_teacher(request.teacher, request.config)
    return alone.teacher, alone.sized(sampled_shapes(samples))


@dataclass(frozen=True)
class LoneTeacher:
    """A teacher that names the pixels of any image. Made by `lone_teacher`."""

    teacher: "Teacher"
    config: PrecomputeConfig

    def sized(self, shapes: Sequence[tuple[int, int]]) -> PrecomputeConfig:
        """The settings for images of these heights and widths.

        Raises UserError for a size that does not fit the teacher.
        """
        dense = self.config.dense
        if dense.size == "auto":
            dense = dense.model_copy(update={"size": auto_size(shapes, self.teacher.strides)})
        self.teacher.grid(dense)  # raises for a size that does not fit, before any image is read
        self.teacher.dense_passes(dense)
        return self.config.model_copy(update={"dense": dense})

    def name_pixels(
        self, image_HW3: NDArray[np.uint8], text_CD: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """(4, y, x) map of names (`names_artifact.name_arrays`) of an RGB image.

        `text_CD`: see `Naming`.
        """
        config = self.sized([(image_HW3.shape[0], image_HW3.shape[1])])
        grid = map_grid(config.dense.pixels, config.pixel_names.stride)
        naming = Naming(text_CD, (), grid, config.pixel_names)
        return _name_map(self.teacher, image_HW3, naming, config)


def lone_teacher(spec: str, config: PrecomputeConfig | None = None) -> LoneTeacher:
    """The teacher that a person names, loaded as a new store would load it."""
    config = config or PrecomputeConfig()
    precision = choose_precision(config.precision, choose_device(config.device))
    resize = choose_resize(config.resize, choose_device(config.device))
    files = resolve_teacher(spec, typed=True)
    teacher = open_teacher(files, device=config.device, precision=precision, resize=resize)
    resolved = {"precision": precision, "resize": resize}
    return LoneTeacher(teacher, config.model_copy(update=resolved))


def _named(
    teacher: "Teacher", sample: Sample, naming: Naming, config: PrecomputeConfig
) -> NamedImage:
    image_HW3 = read_image(sample.image)
    map_4yx = _name_map(teacher, image_HW3, naming, config)
    height, width = image_HW3.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    shown = max(1, round(height * scale)), max(1, round(width * scale))
    return NamedImage(sample.id, resize_image(image_HW3, shown), map_4yx)


def _name_map(
    teacher: "Teacher", image_HW3: NDArray[np.uint8], naming: Naming, config: PrecomputeConfig
) -> NDArray[np.uint8]:
    nothing_HW = np.full(image_HW3.shape[:2], VOID, np.uint8)
    picture = Picture(image_HW3, nothing_HW, "image")
    (dense_Dhw,) = unkept_tokens(teacher, [picture], config.dense, batch=1)
    return name_arrays(dense_Dhw, image_HW3, naming, teacher.device)[NAME]
