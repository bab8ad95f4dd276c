"""The stat cache of a store, sources.jsonl: by which files are recognised without reading them.

One line per image: size and modification time of its files. The first line has a fingerprint of
what else decides a visible label: another description can change labels without touching a file.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from zsseg.stages.cache.disk.disk_errors import disk_errors
from zsseg.stages.cache.disk.json_files import json_lines
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
        self._as_loaded = False
        """Has the file one line for each mark, and no other?"""
        try:
            content = storage(self._path).read()
            head, *lines = content.splitlines(keepends=True)
            if head == self._head:  # the last entry of an id is the one that counts
                self._marks = {str(json.loads(line)["id"]): _hash(line) for line in lines}
                self._saved = _hash(content)
                self._as_loaded = len(lines) == len(self._marks)
        except (OSError, ValueError, KeyError, TypeError):  # a crash may have left half a line
            self._marks = {}

    def knows(self, sample: Sample) -> bool:
        """Are the sample's files those that the store was made from, by size and time?"""
        mark = _hash(self._line(sample))
        self._seen.setdefault(sample.id, mark)
        return self._marks.get(sample.id) == mark

    def add(self, samples: Iterable[Sample]) -> None:
        """Append entries, so that an interrupted check goes on where it was."""
        lines = {sample.id: line for sample in samples if (line := self._unchanged_line(sample))}
        with disk_errors(self._path.parent, SOURCES):
            if not self._saved:
                storage(self._path).write(self._head)
            storage(self._path).append(b"".join(lines.values()))
        self._marks |= {name: _hash(line) for name, line in lines.items()}
        self._saved = 1
        self._as_loaded = False

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
            self._saved = _hash(content)
            self._as_loaded = False

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
    """Bytes and modification time in ns; None when there is no file."""
    try:
        stat = os.stat(path) if path else None  # noqa: PTH116 (a Path for each takes its time)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns] if stat else None
