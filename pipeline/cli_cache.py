"""`zsseg cache`: which stores there are, what one holds, whether it is intact."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline import console
from stages.errors import CacheError

app = typer.Typer(no_args_is_help=True, help="Stores: list, describe, verify.")

Store = Annotated[Path, typer.Argument(help="A store, or a folder that holds only one.")]


@app.command()
def ls(
    folder: Annotated[Path, typer.Argument(help="Folder of stores.")] = Path("data_cache"),
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the stores in a folder."""
    from pipeline.tables import store_table
    from stages.cache.catalogue import find_stores

    stores = find_stores(folder)
    if as_json:
        rows = [asdict(store) | {"path": str(store.path), "bytes": store.bytes} for store in stores]
        sys.stdout.write(json.dumps(rows) + "\n")
    elif stores:
        console.out.print(store_table(stores))
    else:
        console.out.print(f"{folder}: no stores; `zsseg precompute` makes one", soft_wrap=True)


@app.command()
def info(path: Store) -> None:
    """Show what a store was made from and what it holds, as JSON."""
    from stages.cache.catalogue import choose_store
    from stages.cache.dense_loss import recorded_loss
    from stages.cache.manifest import read_manifest

    store = choose_store(path)
    manifest = read_manifest(store)
    loss = recorded_loss(store, manifest)
    shown = {
        "path": str(choose_store(path)),
        "images": manifest.rows,
        "identity": manifest.identity,
        "artifacts": {artifact.name: artifact.recipe for artifact in manifest.artifacts},
        **({"dense_loss": asdict(loss)} if loss else {}),
        "info": manifest.info,
    }
    sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")


@app.command()
def verify(
    path: Store,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Also compare every byte with its checksum.")
    ] = False,
) -> None:
    """Check that a store is complete and intact; name each damaged file and its images."""
    from stages.cache.catalogue import choose_store
    from stages.cache.verify import verify_store

    store = choose_store(path)
    problems = verify_store(store, read_data=read_data)
    for problem in problems:
        images = f" ({len(problem.images)} images: {', '.join(problem.images[:3])}, ...)"
        console.out.print(
            f"{store / problem.file}: {problem.reason}{images if problem.images else ''}",
            markup=False,
            soft_wrap=True,
        )
    if problems:
        raise CacheError(
            f"{store}: {len(problems)} damaged or missing files. Delete those files and run the "
            "store's `zsseg precompute` command again: it recomputes what is missing"
        )
    how = "every byte compared" if read_data else "sizes compared; --read-data compares the bytes"
    console.out.print(f"{store}: complete and intact ({how})", soft_wrap=True)
