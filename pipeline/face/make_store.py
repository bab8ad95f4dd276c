"""`zsseg.precompute`: stage one, for the command of this name and from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsseg.pipeline.face.given_settings import GivenSettings, Progress, nothing, setting_texts
from zsseg.pipeline.settings import apply_settings, build, read_values
from zsseg.stages.cache.disk.store_path import StorePath, store_path

if TYPE_CHECKING:
    from zsseg.stages.precompute.plan.request import PrecomputeRequest
    from zsseg.stages.precompute.precompute_config import PrecomputeConfig
    from zsseg.stages.precompute.run import PrecomputeResult

CACHE = "data_cache"
DEFAULT_TEACHER = "ViT-B-16-quickgelu/openai"


def precompute(
    dataset: str | Path,
    *,
    root: str | Path | None = None,
    split: str = "train",
    teacher: str = DEFAULT_TEACHER,
    cache: str | StorePath = CACHE,
    config: str | Path | None = None,
    limit: int | None = None,
    update: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    max_failures: int | None = None,
    set: GivenSettings = None,
    progress: Progress = nothing,
) -> "PrecomputeResult":
    """Stage one: run CLIP once over a split and write the store; called again it goes on.

    `dataset`: a built-in name, or a description (YAML). `cache`: a folder, or a URL
    (s3://bucket/folder). `config`: a YAML file of settings, which `set` changes. The rest is as
    `zsseg precompute --help` says. Raises subclasses of `UserError`, as the command prints them.
    """
    request = store_request(
        dataset,
        root=root,
        split=split,
        teacher=teacher,
        cache=cache,
        config=precompute_config(config, setting_texts(set)),
        limit=limit,
    )
    from zsseg.pipeline.tables import precompute_words
    from zsseg.stages.precompute.run import precompute as run

    return run(
        request,
        update=update,
        progress=lambda now: progress(now.done, now.total, precompute_words(now)),
        retry_failed=retry_failed,
        max_failures=max_failures,
        workers=workers,
        scheduler=scheduler,
    )


def precompute_config(file: str | Path | None, changes: Sequence[str]) -> "PrecomputeConfig":
    """The settings of a file, or the defaults, with changes (A.B=VALUE)."""
    from zsseg.stages.precompute.precompute_config import PrecomputeConfig

    values = apply_settings(read_values(Path(file)) if file else {}, changes)
    return build(PrecomputeConfig, values, where=str(file) if file else "precompute")


def store_request(
    dataset: str | Path,
    *,
    root: str | Path | None,
    split: str,
    teacher: str,
    cache: str | StorePath,
    config: "PrecomputeConfig",
    limit: int | None,
) -> "PrecomputeRequest":
    """What stage one is asked for."""
    from zsseg.stages.data.spec import chosen_root, load_spec
    from zsseg.stages.precompute.plan.request import PrecomputeRequest

    named = str(dataset)
    return PrecomputeRequest(
        spec=load_spec(named),
        root=chosen_root(named, None if root is None else Path(root)),
        split=split,
        teacher=teacher,
        typed=True,
        cache=store_path(cache),
        config=config,
        limit=limit,
    )
