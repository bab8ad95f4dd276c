"""`zsseg cache verify`: checks a store's files, compares it with its teacher, repairs it."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsseg.pipeline import console
from zsseg.pipeline.cli.options import MovedRoot, MovedTeacher, Quiet, StoreArgument
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.errors import CacheError, UserError
from zsseg.stages.printable import counted

if TYPE_CHECKING:
    from zsseg.stages.cache.verify import DamagedFile, Inspection, Share
    from zsseg.stages.precompute.check.against_teacher import ArtifactCheck

_SHOWN = 3  # images named of one file
_NAMED = 10  # images named in an error

Device = Literal["auto", "cpu", "cuda"] | None

Show = Callable[[str, int, int, str], None]
"""Called with a title, the number done, the number in all, and a few words."""


def verify(
    path: StoreArgument,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Also compare every byte with its checksum.")
    ] = False,
    subset: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Read the K-th of N parts of the data: 1/5, ... 5/5."),
    ] = None,
    against_teacher: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Send N images through the teacher again."),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Read all data, and compute what is damaged once more."),
    ] = False,
    root: MovedRoot = None,
    teacher: MovedTeacher = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the teacher runs.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Check that a store is complete and intact; name each damaged file and its images."""
    console.configure_logging(quiet=quiet)
    from zsseg.stages.cache.verify import EVERYTHING, inspect_store

    store = _store(path)
    share = _share(subset) or (EVERYTHING if read_data or repair else None)
    if repair:
        _repair(store, share or EVERYTHING, root, teacher, device, quiet=quiet)
    else:
        with _progress(quiet) as show:
            found = inspect_store(
                store, share=share, progress=lambda done, total: show("verify", done, total, "")
            )
        _print_problems(store, found.problems)
        if found.problems:
            raise CacheError(
                f"{store}: {len(found.problems)} damaged or missing files. "
                f"`zsseg cache verify {store} --repair` computes what is damaged once more, and "
                "nothing else; it needs the data set and the teacher's files"
            )
        text = _how(share, found)
        console.out.print(f"{store}: complete and intact ({text})", soft_wrap=True)
    if against_teacher is not None:
        _compare(store, against_teacher, root, teacher, device, quiet=quiet)


def _store(path: StorePath) -> StorePath:
    """The store that `path` means, also when its zarr.json is lost."""
    from zsseg.stages.cache.catalogue import choose_store
    from zsseg.stages.cache.disk.storage import storage
    from zsseg.stages.cache.format.manifest import INDEX, LEDGER, SEAL

    if any(storage(path / name).exists() for name in (SEAL, INDEX, LEDGER)):
        return path
    return choose_store(path)


def _share(subset: str | None) -> "Share | None":
    from zsseg.stages.cache.verify import Share

    if subset is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", subset)
    try:
        return Share(int(match[1]), int(match[2])) if match else _no_share(subset)
    except ValueError:
        return _no_share(subset)


def _no_share(subset: str) -> "Share":
    raise UserError(
        f"--subset {subset}: give K/N, the K-th of N parts; 1/5, 2/5, ... 5/5 read everything once"
    )


def _how(share: "Share | None", found: "Inspection | None" = None) -> str:
    """What was compared, in words."""
    if share is None:
        return "sizes compared; --read-data compares the bytes"
    if share.parts == 1:
        return "every byte compared"
    read = f"part {share.number} of {share.parts} of the data compared"
    if found is None:
        return read
    size = console.size_text(found.bytes_read)
    return f"{read}: {found.shards_read} of {counted(found.shards, 'shard')}, {size}"


def _repair(
    store: StorePath,
    share: "Share",
    root: Path | None,
    teacher: str | None,
    device: Device,
    *,
    quiet: bool,
) -> None:
    from zsseg.pipeline.tables import precompute_words
    from zsseg.stages.precompute.check.repair import repair_store

    with _progress(quiet) as show:
        done = repair_store(
            store,
            share=share,
            root=root,
            teacher=teacher,
            device=device,
            look=lambda done, total: show("verify", done, total, ""),
            progress=lambda now: show("repair", now.done, now.total, precompute_words(now)),
        )
    if done is None:
        text = _how(share)
        console.out.print(f"{store}: complete and intact ({text})", soft_wrap=True)
        return
    _print_problems(store, done.problems)
    rows = ", ".join(f"{name} {count}" for name, count in done.result.written.items())
    console.out.print(f"computed again: {rows or 'nothing, metadata only'}", soft_wrap=True)
    if done.before == done.after:
        end = "equal byte for byte to what was written first (the same fingerprint)"
    elif done.before is None:
        end = f"fingerprint {done.after}; the earlier one is unknown, as the seal was damaged"
    else:
        end = (
            "but the recomputed values are not the earlier ones: in some digits, as on another "
            "machine or GPU, or because their images have changed since and the receipt that knew "
            f"it was lost. The fingerprint is {done.after} and was {done.before}. Runs trained "
            "from the store stay usable, but cannot be resumed"
        )
    console.out.print(f"{store}: repaired, {end}", soft_wrap=True)


def _compare(
    store: StorePath,
    number: int,
    root: Path | None,
    teacher: str | None,
    device: Device,
    *,
    quiet: bool,
) -> None:
    from zsseg.stages.precompute.check.against_teacher import compare_with_teacher

    with _progress(quiet) as show:
        found = compare_with_teacher(
            store,
            number=number,
            root=root,
            teacher=teacher,
            device=device,
            progress=lambda done, total: show("against teacher", done, total, ""),
        )
    for image, why in found.left_out.items():
        console.out.print(f"{image}: {why}", soft_wrap=True)
    for check in found.checks:
        what = "classes" if check.artifact == "text" else "images"
        console.out.print(
            f"{check.artifact}: {check.compared} {what}, {check.measure} mean {check.mean:.7f}, "
            f"worst {check.worst:.7f} ({check.worst_at})",
            soft_wrap=True,
        )
    if failed := [_wrong(check) for check in found.checks if not check.passed]:
        raise CacheError(
            f"{store}: the teacher's output differs from what is stored: {'; '.join(failed)}. If "
            "--read-data finds no damage, libraries, device or preprocessing have changed since "
            "the store was made (history.jsonl names the versions), or it was made wrong. To "
            "compare, make it again under another --cache, then use `zsseg cache diff`"
        )
    if not found.images:
        raise CacheError(
            f"{store}: no image could be compared with the teacher: none is as it was when the "
            "store was made. Give the data set's folder with --root"
        )
    console.out.print(
        f"{store}: agrees with its teacher, on {counted(found.images, 'image')}",
        soft_wrap=True,
    )


def _wrong(check: "ArtifactCheck") -> str:
    """One artifact that differs and the images concerned, for the error message."""
    more = ", ..." if len(check.below) > _NAMED else ""
    named = ", ".join(check.below[:_NAMED])
    kind = "worst" if check.measure == "cosine" else "mean"
    value = check.worst if check.measure == "cosine" else check.mean
    return f"{check.artifact} ({kind} {check.measure} {value:.4f} < {check.least}): {named}{more}"


def _print_problems(store: StorePath, problems: "tuple[DamagedFile, ...]") -> None:
    for problem in problems:
        held = []
        if problem.array:
            held.append(f"array {problem.array}")
        elif problem.artifact:
            held.append(f"receipt of {problem.artifact}")
        if problem.images:
            more = ", ..." if len(problem.images) > _SHOWN else ""
            named = ", ".join(problem.images[:_SHOWN])
            held.append(f"{counted(len(problem.images), 'image')}: {named}{more}")
        what = f" ({'; '.join(held)})" if held else ""
        text = f"{store / problem.file}: {problem.reason}{what}"
        console.out.print(text, soft_wrap=True)


@contextmanager
def _progress(quiet: bool) -> Iterator[Show]:
    """Progress bars one after the other: a new title begins a new bar."""
    with ExitStack() as bar:
        title = ""
        advance: console.Advance | None = None

        def show(now: str, done: int, total: int, words: str) -> None:
            nonlocal title, advance
            if advance is None or now != title:
                bar.close()
                title, advance = now, bar.enter_context(console.progress(now, quiet=quiet))
            advance(done, total, words)

        yield show
