"""How many of the images to score a run was trained on, by id and by content."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from zsseg.stages.cache.disk.hashing import hash_file
from zsseg.stages.cache.disk.store_path import store_path
from zsseg.stages.cache.reader import Store
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec
from zsseg.stages.data.splits import is_divided
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.trained_run import TrainedRun

logger = logging.getLogger(__name__)


def count_trained_on(
    run: TrainedRun, spec: DatasetSpec, samples: Sequence[Sample], split: str
) -> int | None:
    """How many samples are among the images that a run was trained on; None where nothing tells.

    An image counts when its file has the content of one in the run's store, under whatever name,
    and when it is the image of the same id in the same split of the same data set. Without the
    store only the second can be seen.
    """
    same_split = spec.name == run.spec.name and (
        split == run.record.split or not is_divided(run.spec)
    )
    known = _stored_images(run)
    if known is None:
        return len(samples) if same_split else None
    ids, hashes = known

    def is_known(sample: Sample) -> bool:
        if same_split and sample.id in ids:
            return True
        with suppress(OSError):  # one that cannot be read is reported when it is scored
            return hash_file(sample.image) in hashes
        return False

    with ThreadPoolExecutor() as threads:
        return sum(threads.map(is_known, samples))


def _stored_images(run: TrainedRun) -> tuple[set[str], set[str]] | None:
    """Ids and content hashes of the images in a run's store; None where it is not there."""
    try:
        store = Store.open(store_path(run.record.store))
        shards = range(-(-store.rows // store.shard_rows))
        hashes = {each for shard in shards for each in store.receipt("index", shard)["images"]}
        return {str(entry["id"]) for entry in store.index}, hashes - {None}
    except (UserError, OSError, KeyError) as error:
        logger.debug(
            "the images that %s was trained on cannot be compared with these: %s", run.path, error
        )
        return None
