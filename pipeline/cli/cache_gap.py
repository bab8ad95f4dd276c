"""`zsseg cache gap`: how much tokens of whole images differ from tokens of their crops."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import MovedRoot, MovedTeacher, Quiet, StoreArgument
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.precompute.check.consistency_gap import Gap, Likeness

LARGE = 0.1
"""Above this share of crops with another class, recorded views are recommended. [ours]"""


def gap(
    path: StoreArgument,
    images: Annotated[
        int, typer.Option(min=1, help="Images to look at, spread over the store.")
    ] = 32,
    root: MovedRoot = None,
    teacher: MovedTeacher = None,
    quiet: Quiet = False,
) -> None:
    """Compare CLIP's tokens of crops with those of whole images: are recorded views worth it?"""
    console.configure_logging(quiet=quiet)
    from zsseg.pipeline.named_stores import dataset_root, stored_spec
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.format.recipe import differing_fields
    from zsseg.stages.cache.reader import Store
    from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
    from zsseg.stages.train.batches.store_check import stored_samples

    store = Store.open(choose_store(path))
    spec, folder = stored_spec(store), dataset_root(root, store)
    samples = stored_samples(store, spec, folder)
    noted = str(store.last("teacher") or store.info["teacher"])
    files = resolve_teacher(teacher or noted, typed=teacher is not None)
    if files.kind == "tokens":
        raise UserError(
            f"{files.spec}: has maps of whole images alone, and no tokens of crops to compare "
            "with. Give a store of another teacher"
        )
    if changed := differing_fields(
        store.identity["teacher"], files.recipe(), sides=("stored", "given")
    ):
        raise CacheError(
            f"{store.path}: was made with another teacher than {files.spec}:",
            *map("  {}".format, changed),
            "Give its own with --teacher",
        )
    from zsseg.stages.precompute.check.consistency_gap import measure_gap
    from zsseg.stages.precompute.make.artifact_kind import recipe_precision, recipe_resize
    from zsseg.stages.precompute.teacher.open_teacher import open_teacher

    recipe = store.recipes["cls"]
    precision, resize = recipe_precision(recipe), recipe_resize(recipe)
    with console.progress("gap", quiet=quiet) as advance:
        found = measure_gap(
            store,
            spec=spec,
            root=folder,
            samples=samples,
            teacher=open_teacher(files, device="auto", precision=precision, resize=resize),
            images=images,
            progress=lambda done, total: advance(done, total, "images"),
        )
    console.print_whole(_table(found))
    console.out.print(_meaning(found), soft_wrap=True)


def _table(found: "Gap") -> Table:
    """One line per pair of tokens."""
    looked_at = f"{counted(found.crops, 'crop')} of {counted(found.images, 'image')}"
    title = f"{looked_at}: CLIP's own tokens, and stored ones"
    table = Table("tokens of", "compared with", "cosine", "worst", "same class %", box=None)
    table.title, table.title_justify = title, "left"
    lines: list[tuple[str, str, Likeness | None]] = [
        ("mirrored image, dense", "the image's, mirrored", found.mirrored_dense),
        ("mirrored image, CLS", "the image's", found.mirrored_image),
        ("crop, dense", "the image's, cut out at the crop", found.dense),
        ("crop, CLS", "the image's", found.image),
        ("crop, CLS", "dense tokens of the image at the crop, averaged", found.pooled),
        ("crop, CLS", "another image's", found.others),
    ]
    for token, other, likeness in lines:
        if likeness is not None:
            cosines = (f"{likeness.cosine:.3f}", f"{likeness.worst:.3f}")
            table.add_row(token, other, *cosines, f"{100 * likeness.same_class:.1f}")
    return table


def _meaning(found: "Gap") -> str:
    """What the figures mean for training, and what to do, in one line."""
    wrong = 1 - found.image.same_class
    finding = (
        f"The whole image's token names another class than the crop's own for {100 * wrong:.0f} % "
        "of the crops: "
    )
    if wrong < LARGE:
        return f"{finding}it serves well enough for crops"
    if found.recorded:
        return (
            f"{finding}train with --set augmentation.views=recorded, for which this store keeps "
            f"{counted(found.recorded, 'crop')} per image"
        )
    return (
        f"{finding}record views (add --update --views 8 to the `zsseg precompute` command of this "
        "store) and train with --set augmentation.views=recorded"
    )
