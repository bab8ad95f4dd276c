"""`zsseg cache why`: what `zsseg precompute` would compute in a store now, and why."""

from dataclasses import replace

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import MovedRoot, MovedTeacher, Quiet, Settings, StoreArgument
from zsseg.pipeline.settings import apply_settings, build


def why(
    store: StoreArgument,
    root: MovedRoot = None,
    teacher: MovedTeacher = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Say what `zsseg precompute` would do to a store now, and why; nothing is changed.

    With the store's own settings, and other ones with --set: changed, new and lost images and
    labels, damage that shows without reading the data, and what a setting would touch.
    """
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.cli.forecast_text import print_forecast
    from zsseg.pipeline.tables import precompute_words
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.format.manifest import read_manifest
    from zsseg.stages.precompute.plan.stored_settings import find_origin, recall_settings
    from zsseg.stages.precompute.precompute_config import PrecomputeConfig
    from zsseg.stages.precompute.run import forecast

    path = choose_store(store)
    manifest = read_manifest(path)
    made = recall_settings(path, manifest)
    folder, files = find_origin(path, made, manifest, root=root, teacher=teacher)
    values = apply_settings(made.config.model_dump(mode="json"), settings or [])
    request = made.request(
        root=folder, teacher=files.spec, typed=teacher is not None, cache=path.parent
    )
    with console.progress("why", quiet=quiet) as advance:
        found = forecast(
            replace(request, store=path, config=build(PrecomputeConfig, values, where=str(path))),
            retry_failed=False,
            progress=lambda now: advance(now.done, now.total, precompute_words(now)),
        )
    print_forecast(found)
