"""`zsseg cache`: the group of its subcommands, with `ls`, `info` and `diff`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.cache_gap import gap
from zsseg.pipeline.cli.cache_manage import Runs, export, import_, prune, rm, unlock
from zsseg.pipeline.cli.cache_show import show
from zsseg.pipeline.cli.cache_verify import verify
from zsseg.pipeline.cli.cache_why import why
from zsseg.pipeline.cli.options import FolderArgument, StoreArgument
from zsseg.stages.cache.disk.store_path import StorePath, store_path
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.cache.tools.store_comparison import ArtifactComparison

app = typer.Typer(
    no_args_is_help=True, help="Stores: list, describe, verify, compare, delete, pack."
)
for command in (verify, why, rm, prune, export, unlock):
    app.command()(command)
app.command("import")(import_)
app.command()(gap)
app.command()(show)


@app.command()
def ls(
    folder: FolderArgument = Path("data_cache"),
    runs: Runs = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each store as a line of JSON.")
    ] = False,
) -> None:
    """List the stores in a folder: size, state, last use, and how many runs are made from each."""
    console.configure_logging(quiet=as_json)
    from zsseg.pipeline.tables import store_table
    from zsseg.stages.cache.catalogue import find_stores
    from zsseg.stages.cache.tools.uses import find_runs, last_used, runs_of

    stores = find_stores(folder)
    known = find_runs(runs)
    uses = [(last_used(store.path), runs_of(store.path, known)) for store in stores]
    if as_json:
        for store, (used, made) in zip(stores, uses, strict=True):
            line = asdict(store) | {"path": str(store.path), "bytes": store.bytes}
            line |= {"last_used": used.isoformat(timespec="seconds") if used else None}
            line |= {"runs": [str(run) for run in made]}
            sys.stdout.write(json.dumps(line) + "\n")
    elif stores:
        console.print_whole(store_table(stores, [(used, len(made)) for used, made in uses]))
    else:
        console.out.print(f"{folder}: no stores; `zsseg precompute` makes one", soft_wrap=True)


@app.command()
def info(path: StoreArgument) -> None:
    """Show what a store was made from and what it holds, as JSON."""
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.dense_loss import recorded_loss
    from zsseg.stages.cache.format.manifest import read_manifest

    store = choose_store(path)
    manifest = read_manifest(store)
    loss = recorded_loss(store, manifest)
    shown = {
        "path": str(store),
        "images": manifest.rows,
        "identity": manifest.identity,
        "artifacts": {artifact.name: artifact.recipe for artifact in manifest.artifacts},
        **({"dense_loss": asdict(loss)} if loss else {}),
        "info": manifest.info,
    }
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


@app.command()
def diff(
    a: Annotated[
        StorePath,
        typer.Argument(parser=store_path, metavar="A", help="A store, as for `info`."),
    ],
    b: Annotated[StorePath, typer.Argument(parser=store_path, metavar="B", help="Another one.")],
) -> None:
    """Say in which settings two stores differ, and in how many shards of each artifact."""
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.tools.store_comparison import compare_stores

    one, other = choose_store(a), choose_store(b)
    found = compare_stores(one, other)
    lines = [f"A: {one}", f"B: {other}", *found.fields]
    for each in found.artifacts:
        lines += [_artifact_line(each), *(f"  {line}" for line in each.fields)]
    console.out.print(*lines, sep="\n", soft_wrap=True)


def _artifact_line(found: "ArtifactComparison") -> str:
    if found.same_recipe is None:
        return f"{found.name}: in one store only"
    recipe = f"{'same' if found.same_recipe else 'different'} fingerprint"
    if found.shards is None:
        return f"{found.name}: {recipe}; shards cannot be compared (other images or shapes)"
    missing = f", {found.missing} not in both" if found.missing else ""
    data = f"data differs in {found.differing} of {counted(found.shards, 'shard')}{missing}"
    return f"{found.name}: {recipe}; {data}"
