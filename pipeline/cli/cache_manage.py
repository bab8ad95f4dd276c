"""`zsseg cache rm`, `prune`, `export`, `import`, `unlock`."""

from pathlib import Path
from typing import Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import CacheFolder, FolderArgument, StoreArgument
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.errors import UserError

Runs = Annotated[
    Path, typer.Option("--runs", help="Folder of runs, to say which were made from a store.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]

_SHOWN = 5  # runs named of one store


def rm(
    stores: Annotated[
        list[StorePath],
        typer.Argument(parser=store_path, metavar="STORE...", help="Folders of stores."),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
) -> None:
    """Delete stores. Runs stay usable without theirs, but cannot be resumed."""
    console.configure_logging(quiet=False)
    from zsseg.stages.cache.disk.storage import storage
    from zsseg.stages.cache.tools.removal import check_removable, remove_store
    from zsseg.stages.cache.tools.uses import find_runs, last_used, runs_of

    known = find_runs(runs)
    stores = list({store.resolve(): store for store in stores}.values())
    for store in stores:  # before any is deleted: one that is refused leaves all in place
        check_removable(store)
    for store in stores:
        made, used = runs_of(store, known), last_used(store)
        named = ", ".join(map(str, made[:_SHOWN])) + (", ..." if len(made) > _SHOWN else "")
        when = f"last used {used.astimezone():%Y-%m-%d %H:%M}" if used else "no use noted"
        text = f"{len(made)} runs below {runs} were trained from it{': ' if made else ''}{named}"
        size = console.size_text(storage(store).total_bytes())
        console.out.print(f"{store}: {size}, {when}; {text}", soft_wrap=True)
    if dry_run:
        console.out.print("dry run: nothing was deleted")
        return
    if not (yes or _confirmed(f"Delete {'it' if len(stores) == 1 else 'all of them'}?")):
        console.out.print("nothing was deleted")
        return
    freed = sum(map(remove_store, stores))
    console.out.print(f"freed {console.size_text(freed)}")


def prune(
    folder: FolderArgument = Path("data_cache"),
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also delete stores that are not finished.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Delete what interrupted commands left: half files, unknown arrays, half removed stores."""
    console.configure_logging(quiet=False)
    from zsseg.stages.cache.tools.removal import prune as run

    found = run(folder, unfinished=unfinished, dry_run=dry_run)
    for each in found:
        text = f"{each.path}: {each.reason}, {console.size_text(each.bytes)}"
        console.out.print(text, soft_wrap=True)
    freed = sum(each.bytes for each in found)
    verb = "would free" if dry_run else "freed"
    console.out.print(f"{verb} {console.size_text(freed)} ({freed} bytes)")


def export(
    store: StoreArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The archive to write.")],
) -> None:
    """Write a finished store as one tar file; the same store gives the same bytes.

    Its history goes along unchanged, with the folders of this machine that it names.
    """
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.tools.export_archive import export_store

    chosen = choose_store(store)
    size = console.size_text(export_store(chosen, file))
    console.out.print(f"{chosen}: exported to {file}, {size}", soft_wrap=True)
    console.out.print(
        f"next, elsewhere: zsseg cache import {file.name} --cache DIR", soft_wrap=True
    )


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What `export` wrote.")],
    cache: CacheFolder = Path("data_cache"),
) -> None:
    """Unpack a store and verify every byte; it appears in the folder once it is complete."""
    from zsseg.stages.cache.tools.import_archive import import_store

    imported = import_store(file, cache)
    state = "imported, every byte verified" if imported.new else "there already, the same store"
    console.out.print(f"{imported.path}: {state}", soft_wrap=True)


def unlock(
    store: StoreArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take away the lock of a store at a URL whose writer was killed on another machine."""
    from zsseg.stages.cache.disk.lock import lock_left_behind
    from zsseg.stages.cache.disk.lock import unlock as run
    from zsseg.stages.cache.disk.storage import storage

    storage(store).check_reachable()
    if (holder := lock_left_behind(store)) is None:
        console.out.print(f"{store}: not locked", soft_wrap=True)
        return
    console.out.print(f"{store}: locked by {holder}", soft_wrap=True)
    if yes or _confirmed("Remove the lock? Do so only if that process has ended."):
        run(store)
        console.out.print("unlocked")
    else:
        console.out.print("nothing was changed")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort as error:
        raise UserError("nothing was changed: no answer. Give --yes to go on unasked") from error
