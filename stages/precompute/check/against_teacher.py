"""Compares a store with its teacher: a few images go through the teacher again.

Checksums prove that the bytes are those that were written. This shows that they were right, and
that teacher, preprocessing and libraries still give the same. Fresh tokens go through the store's
own format before they are compared, so what a smaller format loses does not count.
Legend: V views, D CLIP width, h w token grid, K masks, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.codec import DENSE, decode
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import training_samples
from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.make.artifacts import KINDS
from zsseg.stages.precompute.make.cls_artifact import cls_arrays
from zsseg.stages.precompute.make.dense_artifact import dense_arrays, unkept_tokens
from zsseg.stages.precompute.make.local_artifact import KnownCrops, local_arrays
from zsseg.stages.precompute.make.names_artifact import NAME, name_arrays, naming_of
from zsseg.stages.precompute.make.pictures import Picture, read_image_row
from zsseg.stages.precompute.make.regions_artifact import region_arrays
from zsseg.stages.precompute.make.token_loss import spread, token_cosines
from zsseg.stages.precompute.plan.stored_settings import find_origin, recall_settings
from zsseg.stages.precompute.precompute_config import Precision, PrecomputeConfig
from zsseg.stages.precompute.teacher.text_embeddings import embed_classes

if TYPE_CHECKING:
    from zsseg.stages.precompute.teacher.teacher_protocol import Teacher

LEAST_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.995, "bf16": 0.9}
"""Least cosine of a stored token and a fresh one, by the precision that the store was made in.

Rounding to half precision moves a number by at most 2^-11 of itself. Where the last digits of fp32
differ (another processor, number of threads or batch) two numbers may be rounded apart by twice
that, which leaves a cosine above 1 - (2 * 2^-11)^2 / 2 = 1 - 5e-7. A lower precision rounds in
every layer, and differently on another device: two devices may differ as much as each from fp32.
docs/stores.md has cosines measured where all is right and where it is not."""

LEAST_RAND_INDEX = 0.9
"""Least mean adjusted Rand index of stored and fresh regions. scikit-learn mines the same regions
of the same tokens, but cuML is not reproducible: a token between two clusters may go either way,
and a pair of centres at the threshold may be merged or not. So the mean is judged, and no image."""

LEAST_SAME = 0.95
"""Least mean share of cells of the map of names that have the best class of a fresh map. Where two
classes are nearly equal, the last digits decide; in bf16 dense tokens of 3 % of the cells do."""

Measure = Literal["cosine", "adjusted Rand index", "share of equal names"]

Score = tuple[float, float]
"""Mean and worst of one image's tokens, or of a class."""


@dataclass(frozen=True)
class ArtifactCheck:
    """The comparison of one artifact."""

    artifact: str
    measure: Measure
    compared: int
    """Images, or classes of `text`."""
    mean: float
    worst: float
    worst_at: str
    """Id of the image, or name of the class."""
    least: float
    """The limit for the worst cosine, or for the mean of another measure."""
    below: tuple[str, ...]
    """Ids or names of all below the limit."""

    @property
    def passed(self) -> bool:
        """Does the artifact agree with the teacher?"""
        return (self.worst if self.measure == "cosine" else self.mean) >= self.least


@dataclass(frozen=True)
class TeacherCheck:
    """The result of the comparison."""

    images: int
    """Images compared."""
    checks: tuple[ArtifactCheck, ...]
    left_out: dict[str, str]
    """Id -> reason why an image, or a part of it, was not compared."""


def compare_with_teacher(
    path: StorePath,
    *,
    number: int,
    root: Path | None,
    teacher: str | None,
    device: Literal["auto", "cpu", "cuda"] | None,
    progress: Callable[[int, int], None],
) -> TeacherCheck:
    """Send at most `number` images, evenly spread, through the teacher again, and all class names.

    Root, teacher and device are those noted in the history unless they are given. Images whose file
    has changed are left out. Raises CacheError for an incomplete store, or when its history does
    not say what it was made from.
    """
    if number < 1:
        raise UserError(f"--against-teacher {number}: give 1 or more")
    store = Store.open(path)
    settings = recall_settings(path, store.manifest)
    folder, files = find_origin(path, settings, store.manifest, root=root, teacher=teacher)
    samples = {each.id: each for each in training_samples(settings.spec, folder, settings.split)}
    config = settings.config

    from zsseg.stages.precompute.teacher.open_teacher import open_teacher

    precision, resize = config.precision, config.resize
    assert precision != "auto", "stored settings are resolved"
    assert resize != "auto", "stored settings are resolved"
    live = open_teacher(files, device=device or config.device, precision=precision, resize=resize)
    rows = spread(np.flatnonzero(store.read_all("status") == 0), number)
    found: dict[str, dict[str, Score]] = {"text": _text(store, live, config)}
    left_out: dict[str, str] = {}
    for done, row in enumerate(rows, start=1):
        image = str(store.index[row]["id"])
        picture, why = _picture(store, row, samples.get(image), settings.spec, folder)
        if why:
            left_out[image] = why
        if picture:
            compared = _Row(store, row, picture, live, config)
            for artifact, score_of in _SCORES.items():
                if why and KINDS[artifact].from_labels:
                    continue
                if (score := score_of(compared)) is not None:
                    found.setdefault(artifact, {})[image] = score
        progress(done, len(rows))
    checks = [_check(name, found[name], precision) for name in ("text", *_SCORES) if name in found]
    return TeacherCheck(len(found.get("cls", {})), tuple(checks), left_out)


def _picture(
    store: Store, row: int, sample: Sample | None, spec: DatasetSpec, root: Path
) -> tuple[Picture | None, str]:
    """An image if its file has not changed, and a text on what has changed, if anything."""
    if sample is None:
        return None, "it is not in the data set any more"
    shard, place = divmod(row, store.shard_rows)
    receipt = store.receipt("index", shard)
    found = read_image_row(spec, root, sample)
    if found.hashes.image != receipt["images"][place] or found.picture is None:
        return None, "its file has changed since the store was made"
    if found.hashes.label != receipt["labels"][place]:
        return found.picture, "its visible label has changed: regions and local not compared"
    return found.picture, ""


def _text(store: Store, teacher: "Teacher", config: PrecomputeConfig) -> dict[str, Score]:
    text, classes = config.text, store.identity["classes"]
    fresh_CD = embed_classes(teacher, store.info["names"], text.templates, synonyms=text.synonyms)
    both = [np.moveaxis(each, -1, 0) for each in (store.read_all("text"), fresh_CD)]
    cosine_C = token_cosines(*both).reshape(len(classes), -1).min(1)  # of several names the worst
    return {name: (float(c), float(c)) for name, c in zip(classes, cosine_C, strict=True)}


@dataclass(frozen=True)
class _Row:
    """A row of the store, its image, and what makes it anew."""

    store: Store
    row: int
    picture: Picture
    teacher: "Teacher"
    config: PrecomputeConfig

    def stored(self, array: str) -> NDArray[Any]:
        return self.store.read(array, self.row)


def _ignore(_: int) -> None:
    """In the place of a progress callback."""


def _cls_score(row: _Row) -> Score | None:
    batch = row.config.batch
    fresh = cls_arrays(row.teacher, [row.picture], row.config.views, batch=batch, advance=_ignore)
    return _cosine(row.stored("cls").T, fresh["cls"][0].T)


def _dense_score(row: _Row) -> Score | None:
    store, config = row.store, row.config
    if not store.has(DENSE):
        return None
    basis = {name: store.read_all(name) for name in ("pca_basis", "pca_mean") if store.has(name)}
    arrays = dense_arrays(
        row.teacher, [row.picture], config.dense, basis=basis, batch=config.batch, advance=_ignore
    )
    parts = basis | {name: values[0] for name, values in arrays.items()}
    return _cosine(row.stored(DENSE), decode(store.recipes[DENSE], parts.__getitem__))


def _regions_score(row: _Row) -> Score | None:
    from zsseg.stages.precompute.make.backend_choice import choose_backend
    from zsseg.stages.precompute.make.regions import unlabelled_tokens

    pictures, config = [row.picture], row.config
    region_hw = row.stored("regions")
    share = config.regions.unlabelled_share
    unlabelled_hw = unlabelled_tokens(row.picture.visible_HW, region_hw.shape, share)
    if not unlabelled_hw.any():
        return None
    if row.store.has(DENSE):
        token_1Dhw = row.stored(DENSE)[None]
    else:
        token_1Dhw = unkept_tokens(row.teacher, pictures, config.dense, batch=config.batch)
    # By its own library where that is here: cuML's regions differ from its own as from others'.
    device, asked = row.teacher.device, config.regions.backend
    try:
        backend = choose_backend(asked, device.type)
    except ResourceError:
        backend = choose_backend("auto", device.type)
    mined = region_arrays(
        token_1Dhw, pictures, config.regions, backend=backend, advance=_ignore, device=device
    )
    index = rand_index(region_hw[unlabelled_hw], mined["regions"][0][unlabelled_hw])
    return index, index


def _local_score(row: _Row) -> Score | None:
    if not row.store.has("local"):
        return None
    fresh, _ = local_arrays(
        row.teacher,
        [row.picture],
        row.stored("regions")[None],
        row.config.local,
        known=KnownCrops("", {}),
        batch=row.config.batch,
        advance=_ignore,
    )
    id_K = row.stored("local_ids")
    if not np.array_equal(id_K, fresh["local_ids"][0]):
        return 0.0, 0.0  # the tokens are those of other masks
    there = id_K >= 0
    if not there.any():
        return None
    return _cosine(row.stored("local")[there].T, fresh["local"][0][there].T)


def _names_score(row: _Row) -> Score | None:
    if not row.store.has(NAME):
        return None
    if row.store.has(DENSE):
        token_Dhw = row.stored(DENSE)
    else:
        (token_Dhw,) = unkept_tokens(
            row.teacher, [row.picture], row.config.dense, batch=row.config.batch
        )
    naming = naming_of(row.store.identity, row.store.read_all("text"), row.config)
    fresh = name_arrays(token_Dhw, row.picture.image_HW3, naming, row.teacher.device)
    same = float((row.stored(NAME)[0] == fresh[NAME][0]).mean())
    return same, same


_SCORES: dict[str, Callable[[_Row], Score | None]] = {
    "cls": _cls_score,
    DENSE: _dense_score,
    "regions": _regions_score,
    "local": _local_score,
    NAME: _names_score,
}
"""By artifact, each from the stored values of those before it, so that a wrong one is named alone.
None where an image has none of it (no mask, no unlabelled token, not in this store)."""


def rand_index(one_T: NDArray[np.uint8], other_T: NDArray[np.uint8]) -> float:
    """Adjusted Rand index of the values of two region maps at the same tokens (T,).

    1: the same parts, whatever their numbers; about 0: as alike as parts drawn at random.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one_T, other_T))


def _cosine(stored: NDArray[np.floating], fresh: NDArray[np.floating]) -> Score:
    """Mean and worst cosine of tokens (D, ...); NaN, which passes no check, where one is."""
    cosine_T = token_cosines(stored, fresh)
    return float(cosine_T.mean()), float(cosine_T.min())


def _check(artifact: str, scores: Mapping[str, Score], precision: Precision) -> ArtifactCheck:
    measure: Measure = "cosine"
    # Prompts are embedded in fp32, whatever images are.
    least = LEAST_COSINE["fp32" if artifact == "text" else precision]
    if artifact == "regions":
        measure, least = "adjusted Rand index", LEAST_RAND_INDEX
    elif artifact == NAME:
        measure, least = "share of equal names", LEAST_SAME
    worst_at = min(scores, key=lambda name: np.nan_to_num(scores[name][1], nan=-2))
    return ArtifactCheck(
        artifact=artifact,
        measure=measure,
        compared=len(scores),
        mean=float(np.mean([mean for mean, _ in scores.values()])),
        worst=scores[worst_at][1],
        worst_at=worst_at,
        least=least,
        below=tuple(name for name, (_, worst) in scores.items() if not worst >= least),
    )
