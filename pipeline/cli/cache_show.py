"""`zsseg cache show`: a page that shows what a store has of its images."""

from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import MovedRoot, Quiet, StoreArgument


def show(
    path: StoreArgument,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this image, by its name; may be given many times."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images to show, spread over the store.")] = 12,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page. [default: STORE's name in this folder]"),
    ] = None,
    root: MovedRoot = None,
    quiet: Quiet = False,
) -> None:
    """Show images of a store: dense tokens, the teacher's names, regions, crops with their names.

    Reads the store and the images; no teacher is loaded. For example

    zsseg cache show data_cache/STORE --images 6
    """
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.named_stores import dataset_root, stored_spec
    from zsseg.pipeline.store_page.store_page import ShownRows, spread_rows, write_store_page
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.data.splits import training_samples
    from zsseg.stages.errors import DatasetError, UserError

    store = Store.open(choose_store(path))
    spec = stored_spec(store)
    if image:
        rows = {str(entry["id"]): int(entry["row"]) for entry in store.index}
        if strange := [name for name in image if name not in rows]:
            raise UserError(
                f"{store.path}: has no image '{strange[0]}'. Give a name such as "
                f"'{store.index[0]['id']}'"
            )
        chosen = ShownRows([rows[name] for name in image], "the images asked for")
    else:
        chosen = spread_rows(store, images)
    try:
        folder, split = dataset_root(root, store), str(store.identity["split"])
        samples = {each.id: each for each in training_samples(spec, folder, split)}
    except (DatasetError, UserError):
        if root is not None:
            raise
        samples = {}  # the page says of each image that it is no longer there
    file = out or Path(f"{store.path.name}.html")
    write_store_page(store, spec, samples, chosen, file)
    console.out.print(f"look at {file}", soft_wrap=True)
