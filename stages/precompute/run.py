"""Stage one: the store of a split is made, continued, or found complete.

The list of what is missing is made first, and torch is loaded only when there is something on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.cache.catalogue import place_store
from stages.cache.codec import BASIS, DENSE
from stages.cache.dense_loss import DenseLoss, loss_entry, recorded_loss
from stages.cache.files import free_bytes, read_ahead
from stages.cache.place import StorePath
from stages.cache.store import Writer
from stages.data.samples import Sample, list_samples
from stages.data.spec import DatasetSpec
from stages.errors import DatasetError, ResourceError, UserError
from stages.precompute.choices import require_gpu, settle
from stages.precompute.command import store_command
from stages.precompute.config import PrecomputeConfig
from stages.precompute.measure import measure_dense
from stages.precompute.progress import Meter, Phase, Progress
from stages.precompute.recipes import (
    BASIS_IMAGES,
    Traits,
    store_artifacts,
    store_identity,
    store_index,
    store_info,
    stored_traits,
)
from stages.precompute.settings import Settings, settings_entry
from stages.precompute.sources import withdraw_changed
from stages.precompute.teacher_files import TeacherFiles, resolve_teacher

if TYPE_CHECKING:
    from stages.precompute.teacher import Teacher

_PACKAGES = ("zsseg", "numpy", "open_clip_torch", "pillow", "scikit-learn", "torch", "zarr")


@dataclass(frozen=True)
class PrecomputeResult:
    """What a run did, and how the store stands."""

    path: StorePath
    images: int
    written: dict[str, int]
    """Rows that this run wrote, by artifact; empty when everything was there."""
    seconds: dict[Phase, float]
    """Where this run's time went."""
    failed: dict[str, str]
    """Id -> reason of every image that could not be used, in this run or before."""
    loss: DenseLoss | None
    """What storing dense tokens in fewer bytes costs; None in fp16, and where none are stored."""


def precompute(
    spec: DatasetSpec,
    *,
    root: Path,
    split: str,
    teacher: str,
    cache: StorePath,
    config: PrecomputeConfig,
    limit: int | None,
    update: bool,
    progress: Callable[[Progress], None],
) -> PrecomputeResult:
    """Make, continue or check the store of a split in the folder `cache`; sealed on return.

    `limit` takes the first images only. `update` recomputes in place what was made with other
    settings or from files that have changed since; without it both raise CacheError. An image
    that cannot be used is a row of status 1, and tried again by the next run; if all are,
    DatasetError.
    """
    samples, limit = _first_samples(list_samples(spec, root, split), limit)
    if config.device == "cuda":
        require_gpu()
    files = resolve_teacher(teacher)
    identity = store_identity(spec, split, limit, files, config)
    path = place_store(cache, identity, dataset=spec.name, split=split, teacher=files.slug)
    config = settle(config, path)
    loaded, traits = None, stored_traits(path)
    meter = Meter(progress)
    if traits is None:
        loaded = _load(files, config)
        traits = _traits(loaded, config)
    with Writer.open(
        path,
        identity=identity,
        artifacts=store_artifacts(spec, files, config, traits),
        index=store_index(samples, root),
        shard_rows=config.shard_images,
        info=store_info(spec, files, traits),
        update=update,
    ) as writer:
        missing = _missing(writer, spec, root, samples, update=update, meter=meter)
        written = _rows(writer, missing)
        meter.expect(sum(written.values()))
        if missing:
            _check_space(writer, written)
            loaded = loaded or _load(files, config)
            _compute(
                writer,
                missing,
                spec=spec,
                root=root,
                samples=samples,
                teacher=loaded,
                config=config,
                meter=meter,
            )
        failed = _failures(writer, samples)
        if len(failed) == len(samples):
            raise DatasetError(
                f"{root}: none of the {len(samples)} images of split '{split}' can be used. "
                f"The first: {next(iter(failed.values()))}"
            )
        writer.seal(command=store_command(spec, split, limit, config))
        loss = recorded_loss(path, writer.manifest)
        if loss is None and config.dense.format not in ("fp16", "none"):
            loss = measure_dense(
                path,
                spec=spec,
                root=root,
                samples=samples,
                teacher=loaded or _load(files, config),
                config=config.dense,
                meter=meter,
            )
            if loss is not None:
                writer.log(loss_entry(path, writer.manifest, loss))
        settings = Settings(spec, split, limit, config, traits)
        _remember(
            writer,
            {"root": str(root.resolve()), "teacher": files.located} | settings_entry(settings),
        )
    return PrecomputeResult(path, len(samples), written, meter.seconds, failed, loss)


def _first_samples(samples: list[Sample], limit: int | None) -> tuple[list[Sample], int | None]:
    """The first `limit` samples, and the limit; None where it cuts nothing off."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least one image is needed")
    if limit is None or limit >= len(samples):
        return samples, None
    return samples[:limit], limit


def _load(files: TeacherFiles, config: PrecomputeConfig) -> "Teacher":
    """Load the teacher, and with it torch and open_clip."""
    from stages.precompute.teacher import load_teacher

    assert config.precision != "auto", "settings are settled first"
    return load_teacher(files, device=config.device, precision=config.precision)


def _traits(teacher: "Teacher", config: PrecomputeConfig) -> Traits:
    return Traits(
        width=teacher.width,
        native_size=list(teacher.native_size),
        grid=list(teacher.grid(config.dense)),
        dense_path=teacher.dense_path(config.dense),
    )


def _missing(
    writer: Writer,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    *,
    update: bool,
    meter: Meter,
) -> dict[str, list[int]]:
    """Shards to compute by artifact, those of changed files too; {} when there is nothing to do."""
    shards = range(-(-len(samples) // writer.manifest.shard_rows))
    with read_ahead(writer.path):
        receipts = {shard: writer.receipt("index", shard) for shard in shards}
        # Which files a shard was made from stands in the receipt of its index only: without it
        # nothing tells whether they are the same ones still, so all of the shard is made again.
        lost = [shard for shard in shards if receipts[shard] is None and _begun(writer, shard)]
    if lost:
        writer.forget(lost)
    if writer.missing().get(BASIS):  # fitted again, it need not be the one of what is stored
        writer.forget(shards, only=(DENSE, "regions", "local"))
    relabelled = withdraw_changed(
        writer,
        spec,
        root,
        samples,
        committed={shard: receipt for shard, receipt in receipts.items() if receipt is not None},
        update=update,
        meter=meter,
    )
    missing = writer.missing()
    missing["index"] = sorted({*missing["index"], *relabelled})
    return {name: shards for name, shards in missing.items() if shards}


def _begun(writer: Writer, shard: int) -> bool:
    """Does any per-row artifact have this shard?"""
    per_row = [artifact.name for artifact in writer.manifest.artifacts if artifact.per_row]
    return any(writer.receipt(name, shard) is not None for name in per_row)


def _rows(writer: Writer, missing: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Rows to write by artifact that has any; those of `text` are classes, of a basis images."""
    stored = {artifact.name for artifact in writer.manifest.artifacts if artifact.arrays}
    rows = {
        name: sum(len(writer.rows_of(shard)) for shard in shards)
        for name, shards in missing.items()
        if name in stored
    }
    if "text" in rows:
        artifact, spec = writer.manifest.arrays["text"]
        rows["text"], _ = writer.manifest.shape(artifact, spec)
    if BASIS in rows:
        rows[BASIS] = min(writer.manifest.rows, BASIS_IMAGES)
    return rows


def _check_space(writer: Writer, rows: Mapping[str, int]) -> None:
    """Raise ResourceError before the work when what it makes does not fit on the disk."""
    needed = sum(
        rows.get(artifact.name, 0) * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        for artifact, spec in writer.manifest.arrays.values()
        if artifact.per_row
    )
    free = free_bytes(writer.path)
    if free is not None and needed > free:
        raise ResourceError(
            f"{writer.path}: {needed / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB free. "
            "Give a --cache folder on a larger disk, a smaller dense.size or another dense.format"
        )


def _compute(
    writer: Writer,
    missing: Mapping[str, Sequence[int]],
    *,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    teacher: "Teacher",
    config: PrecomputeConfig,
    meter: Meter,
) -> None:
    """Fill the store, and add what the run says about itself to its history."""
    from stages.precompute.fill import fill
    from stages.precompute.kmeans import choose_backend

    backend = choose_backend(config.regions.backend)
    begin = datetime.now(UTC)
    fill(
        writer,
        missing,
        spec=spec,
        root=root,
        samples=samples,
        teacher=teacher,
        backend=backend,
        config=config,
        meter=meter,
    )
    writer.log(
        {
            "begin": begin.isoformat(timespec="seconds"),
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": {phase: round(value, 3) for phase, value in meter.seconds.items()},
            "shards": {name: len(shards) for name, shards in missing.items()},
            "device": str(teacher.device),
            "kmeans": backend,
            "versions": _versions(),
        }
    )


def _remember(writer: Writer, said: Mapping[str, Any]) -> None:
    """Note where data set and teacher lie now and what was asked for, if that is news.

    For the commands that come next, and for the repair of a store that cannot say it itself.
    """
    if any(writer.last(key) != value for key, value in said.items()):
        writer.log(said)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # zsseg itself, run from a checkout
            continue
    return found


def _failures(writer: Writer, samples: Sequence[Sample]) -> dict[str, str]:
    """Id -> reason, as the receipts have them."""
    failed: dict[str, str] = {}
    shards = range(-(-len(samples) // writer.manifest.shard_rows))
    with read_ahead(writer.path):
        receipts = [writer.receipt("index", shard) for shard in shards]
    for receipt in receipts:
        assert receipt is not None
        failed |= {samples[int(row)].id: why for row, why in receipt["failures"].items()}
    return failed
