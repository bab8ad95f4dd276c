"""`zsseg cache why`: what would be computed of a store now, and why."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from pipeline.config import apply_settings, build
from pipeline.options import Quiet, Settings, StoreArgument


def why(
    store: StoreArgument,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data set, if it has moved.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="The store's teacher, if its files have moved.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Say what `zsseg precompute` would do to a store now, and why; nothing is changed.

    With the store's own settings, and other ones with --set: changed, new and lost images and
    labels, damage that shows without reading the data, and what a setting would touch.
    """
    console.configure_logging(quiet=quiet)
    from pipeline.foretold import print_forecast
    from pipeline.tables import precompute_words
    from stages.cache.catalogue import choose_store
    from stages.cache.manifest import read_manifest
    from stages.precompute.config import PrecomputeConfig
    from stages.precompute.run import foretell
    from stages.precompute.settings import find_origin, recall_settings

    path = choose_store(store)
    manifest = read_manifest(path)
    made = recall_settings(path, manifest)
    folder, files = find_origin(path, made, manifest, root=root, teacher=teacher)
    values = apply_settings(made.config.model_dump(mode="json"), settings or [])
    with console.progress("why", quiet=quiet) as advance:
        found = foretell(
            made.spec,
            root=folder,
            split=made.split,
            teacher=files.spec,
            cache=path.parent,
            config=build(PrecomputeConfig, values, where=str(path)),
            limit=made.limit,
            retry_failed=False,
            progress=lambda now: advance(now.done, now.total, precompute_words(now)),
        )
    print_forecast(found)
