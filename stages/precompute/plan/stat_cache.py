"""The stat cache of a store, sources.jsonl: by which files are recognised without reading them.

One line per image: of each of its files size, modification time, change time and inode. Copying
with `cp -p`, `rsync -t` or tar keeps the first two of another content; nobody can set the others.
The first line has a fingerprint of what else decides a visible label: another description can
change labels without touching a file.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.cache.disk.json_files import json_lines, read_bounded
from zsseg.stages.cache.disk.storage import storage
from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format.manifest import SOURCES
from zsseg.stages.cache.format.recipe import fingerprint
from zsseg.stages.data.folders import names_below
from zsseg.stages.data.samples import Sample
from zsseg.stages.data.spec import DatasetSpec


class StatCache:
    """The stat cache of one store. In memory it is one hash per image, so that it stays small.

    `seen`: by image id, the state of its files when this run first looked. It is filled here and
    shared by the caches of a run. Files that change during the run get no entry, so that the next
    run hashes them.
    """

    def __init__(
        self, store: StorePath, spec: DatasetSpec, root: Path, *, seen: dict[str, int]
    ) -> None:
        self._path, self._name_of, self._seen = store / SOURCES, names_below(root), seen
        fields = {"layout", "classes", "unseen", "encoding", "ignore", "patterns"}
        described = fingerprint(spec.model_dump(mode="json", include=fields))
        self._head = json_lines([{"labels": described}])
        self._marks: dict[str, int] = {}
        self._saved = 0
        """Hash of the whole file; 0 where it cannot be used."""
        self._pending = b""
        """Entries that are not in the file yet."""
        self._length = 0
        """Bytes of the file."""
        self._as_loaded = False
        """Has the file one line for each mark, and no other?"""
        try:
            content = read_bounded(self._path)
            head, *lines = content.splitlines(keepends=True)
            if head == self._head:  # the last entry of an id is the one that counts
                self._marks = {str(json.loads(line)["id"]): _hash(line) for line in lines}
                self._saved, self._length = _hash(content), len(content)
                self._as_loaded = len(lines) == len(self._marks)
        except (OSError, ValueError, KeyError, TypeError):  # a crash may have left half a line
            self._marks = {}

    def knows(self, sample: Sample) -> bool:
        """Are the sample's files those that the store was made from, by size and time?"""
        mark = _hash(self._line(sample))
        self._seen.setdefault(sample.id, mark)
        return self._marks.get(sample.id) == mark

    def add(self, samples: Iterable[Sample]) -> None:
        """Append entries, so that an interrupted check goes on where it was.

        An object cannot be appended to: it is sent again once the entries have doubled it, so that
        all that is sent grows as the store does, and `save` sends the rest.
        """
        lines = {sample.id: line for sample in samples if (line := self._unchanged_line(sample))}
        self._marks |= {name: _hash(line) for name, line in lines.items()}
        self._pending += b"".join(lines.values())
        self._as_loaded = False
        file = storage(self._path)
        if not file.can_append and len(self._pending) < self._length:
            return
        with disk_errors(self._path.parent, SOURCES):
            if not self._saved:
                file.write(self._head)
            file.append(self._pending)
        self._length += len(self._pending)
        self._pending, self._saved = b"", 1

    def save(self, samples: Sequence[Sample], *, without: Callable[[int], bool]) -> None:
        """Write an entry for each sample but the rows `without`, unless that is in the file."""
        if self._up_to_date(samples, without):
            return
        content = bytearray(self._head)  # line by line: there may be very many
        for row, sample in enumerate(samples):
            line = self._unchanged_line(sample)
            content += b"" if without(row) else line
        if _hash(content) != self._saved:
            with disk_errors(self._path.parent, SOURCES):
                storage(self._path).write(memoryview(content))
            self._saved, self._length = _hash(content), len(content)
            self._as_loaded = False
        self._pending = b""

    def _up_to_date(self, samples: Sequence[Sample], without: Callable[[int], bool]) -> bool:
        """Is the file what would be written? Looks at no image file again."""
        return (
            self._as_loaded
            and len(self._marks) == len(samples)
            and all(
                sample.id in self._seen
                and self._marks.get(sample.id) == self._seen[sample.id]
                and not without(row)
                for row, sample in enumerate(samples)
            )
        )

    def _unchanged_line(self, sample: Sample) -> bytes:
        """The sample's entry; empty when its files have changed since the run first looked."""
        line = self._line(sample)
        return line if self._seen.setdefault(sample.id, _hash(line)) == _hash(line) else b""

    def _line(self, sample: Sample) -> bytes:
        """The sample's entry. With the label's path: another file may have its size and time."""
        label = self._name_of(sample.label_file) if sample.label_file else None
        return json_lines(
            [
                {
                    "id": sample.id,
                    "image": _stat(sample.image_file),
                    "label": _stat(sample.label_file),
                    "file": label,
                }
            ]
        )


def _hash(content: bytes | bytearray) -> int:
    return xxhash.xxh3_64_intdigest(content)


def _stat(path: str | None) -> list[Any] | None:
    """Bytes, modification and change time in ns, inode; None when there is no file."""
    try:
        stat = os.stat(path) if path else None  # noqa: PTH116 (a Path for each takes its time)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] if stat else None
