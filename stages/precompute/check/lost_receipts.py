"""Lost receipts written again without the teacher, where files and images prove what they said.

The seal has the hash of every receipt. What files and images would be receipted with now is the
receipt that was lost if it has that hash, and then the files are what it was written for, too.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zsseg.stages.cache import shards
from zsseg.stages.cache.disk.files import file_size, hash_bytes, hash_file
from zsseg.stages.cache.disk.place import StorePath
from zsseg.stages.cache.evidence import not_plain
from zsseg.stages.cache.format.ledger import make_receipt
from zsseg.stages.cache.format.manifest import (
    Artifact,
    Manifest,
    fingerprints,
    receipt_file,
    shard_file,
)
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.make.class_crops import class_crops, crop_salt
from zsseg.stages.precompute.make.pictures import index_arrays, read_row
from zsseg.stages.precompute.precompute_config import LocalConfig
from zsseg.stages.precompute.threads import in_threads


def proved_receipts(
    path: StorePath,
    manifest: Manifest,
    damaged: Collection[str],
    *,
    sealed: Mapping[str, str],
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    config: LocalConfig,
) -> dict[str, bytes]:
    """Content, by path, of those damaged receipts whose shard is whole.

    `damaged`: files of the store, by their paths in it; `sealed`: the hashes that the seal has.
    """
    made_from = fingerprints(manifest.artifacts)
    proved = {}
    for artifact in manifest.artifacts:
        for shard in manifest.shards(artifact):
            name = receipt_file(artifact, shard)
            files = [shard_file(each, artifact, shard) for each in artifact.arrays]
            if name not in damaged or any(not_plain(path / file) for file in files):
                continue
            rows = manifest.rows_of(shard)
            its_samples = samples[rows.start : rows.stop]
            try:
                content = make_receipt(
                    manifest,
                    artifact,
                    shard,
                    made_from=made_from[artifact.name],
                    files={
                        file: {"bytes": file_size(path / file), "xxh3_128": hash_file(path / file)}
                        for file in files
                    },
                    notes=_notes(
                        path,
                        manifest,
                        artifact,
                        shard,
                        spec,
                        root,
                        its_samples,
                        config,
                    ),
                )
            except CacheError:  # the regions that the notes of `local` follow from are damaged
                continue
            if hash_bytes(content) == sealed.get(name):
                proved[name] = content
    return proved


def _notes(
    path: StorePath,
    manifest: Manifest,
    artifact: Artifact,
    shard: int,
    spec: DatasetSpec,
    root: Path,
    samples: Sequence[Sample],
    config: LocalConfig,
) -> dict[str, Any]:
    """What stage one notes in a receipt: of `index` the files, of `local` the masks left out."""
    if artifact.name not in ("index", "local"):
        return {}
    rows = in_threads(partial(read_row, spec, root), samples)
    first = manifest.rows_of(shard).start
    if artifact.name == "index":
        return index_arrays(rows, first)[1]
    region_Nhw = shards.get(path, manifest, "regions", shard)
    salt = crop_salt(artifact.recipe)
    hashes: list[list[str]] = [[] for _ in rows]
    left_out = {}
    for place, row in enumerate(rows):
        if row.picture:
            crops, _, count = class_crops(
                row.picture.image_HW3,
                row.picture.visible_HW,
                region_Nhw[place],
                margin=config.margin,
                max_masks=config.max_masks,
            )
            hashes[place] = [crop.digest(salt) for crop in crops]
            if count:
                left_out[str(first + place)] = count
    return {"crops": hashes, "left_out": left_out}
