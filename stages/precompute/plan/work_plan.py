"""Plans a run (first, resumed or --update): which shards to compute, and why.

Compares receipts, settings and image files, shard by shard.

Artifacts depend on each other: index -> dense -> regions -> local, with text and cls beside. A
changed setting makes the artifact again that it belongs to, and those made from it. An image that
was edited, added or removed costs its own row; the other rows of its shard are copied.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from zsseg.stages.cache.disk.store_path import StorePath
from zsseg.stages.cache.format import ledger
from zsseg.stages.cache.format.manifest import Artifact, Manifest
from zsseg.stages.cache.shards import Files
from zsseg.stages.errors import CacheError
from zsseg.stages.precompute.engine.jobs import KILLED, Job, OldValues
from zsseg.stages.precompute.make.artifacts import KINDS, PER_ROW, dependents_of
from zsseg.stages.precompute.make.pictures import OldRow
from zsseg.stages.precompute.plan.changed_files import RowState, old_rows, row_states
from zsseg.stages.precompute.plan.earlier_stores import (
    EarlierStore,
    earlier_stores,
    readable_receipts,
)
from zsseg.stages.precompute.plan.stat_cache import StatCache
from zsseg.stages.precompute.plan.wanted_store import WantedStore
from zsseg.stages.precompute.progress import Meter

_REASONS: dict[RowState, str] = {
    "changed": "their image file is another one",
    "relabelled": "their visible label is another one",
    "usable": "they can be read now, or are to be tried again",
    "useless": "they fail for another reason now",
}

_log = logging.getLogger(__name__)


@dataclass
class Plan:
    """Shards to compute by artifact (shard 0 for one without rows), and why."""

    todo: dict[str, list[int]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    """Rows to compute by artifact, less those that are copied; of `text` classes, of a basis
    images."""
    copied: Counter[str] = field(default_factory=Counter)
    why: dict[str, Counter[str]] = field(default_factory=dict)
    """Reason -> rows, by artifact."""
    states: dict[int, RowState] = field(default_factory=dict)
    """Rows whose files have changed."""

    @property
    def steps(self) -> int:
        """Steps of progress: one is one image of one artifact, or one class of `text`."""
        return self.rows.total() + self.copied.total()

    @property
    def shards(self) -> list[int]:
        """Shards of images for which anything is to be computed."""
        return sorted({shard for name in PER_ROW for shard in self.todo.get(name, ())})

    def need(self, artifact: str, shard: int, reason: str, rows: int) -> None:
        """Add a shard of an artifact, all of its `rows` to be computed."""
        self.need_rows(artifact, shard, Counter({reason: rows}), rows)

    def need_rows(self, artifact: str, shard: int, why: Counter[str], rows: int) -> None:
        """Add a shard of an artifact, some of its `rows` to be computed, the others copied."""
        self.todo.setdefault(artifact, []).append(shard)
        self.rows[artifact] += why.total()
        self.copied[artifact] += rows - why.total()
        self.why.setdefault(artifact, Counter()).update(why)


class Planner:
    """Compares a store with what is wanted. All that it writes is the stat cache."""

    def __init__(
        self, wanted: WantedStore, *, retry_failed: bool, keeps: bool, meter: Meter
    ) -> None:
        """`keeps`: the store is locked, so the stat cache may be written."""
        self.wanted, self._retry, self._keeps, self._meter = wanted, retry_failed, keeps, meter
        self._caches: dict[StorePath, StatCache] = {}
        self._seen: dict[str, int] = {}
        self.artifacts = {each.name: each for each in wanted.manifest.artifacts}
        self._per_row = [name for name in PER_ROW if name in self.artifacts]
        self._front, self._aside, self.mismatch = earlier_stores(wanted)

    def plan(self) -> Plan:
        """All that is to be computed. Files that the stat cache does not know are hashed."""
        plan = Plan()
        manifest = self.wanted.manifest
        for artifact in manifest.artifacts:
            if artifact.per_row or artifact.name in self.units_set_aside:
                continue
            if reason := self._lost(self._front, artifact, 0):
                plan.need(artifact.name, 0, reason, KINDS[artifact.name].steps(manifest))
        for shard in range(-(-manifest.rows // manifest.shard_rows)):
            self._plan_shard(plan, shard)
        return plan

    @cached_property
    def units_set_aside(self) -> Mapping[str, StorePath]:
        """Missing artifacts without rows, and the path of the store set aside that has them."""
        return {
            artifact.name: self._aside.path
            for artifact in self.wanted.manifest.artifacts
            if not artifact.per_row
            and self._aside is not None
            and self._lost(self._front, artifact, 0)
            and self._lost(self._aside, artifact, 0) is None
        }

    def remember(self, plan: Plan | None) -> None:
        """Save what is known of the files, without the changed rows of a plan yet to be done."""
        states = {} if plan is None else plan.states
        self._cache(self.wanted.path).save(self.wanted.samples, without=lambda row: row in states)

    def forced(self, plan: Plan) -> tuple[str, ...]:
        """Per-row artifacts to recompute even if their receipts are valid, dependents first.

        They are made from a once-per-store artifact (text, the PCA basis) that is recomputed and
        may come out differently.
        """
        once = [name for name in plan.todo if not self.artifacts[name].per_row]
        found = {name for each in once for name in dependents_of(each)}
        return tuple(name for name in reversed(self._per_row) if name in found)

    def job(self, plan: Plan, shard: int) -> Job:
        """The job of one shard, with the values that need not be computed."""
        todo = tuple(name for name in self._per_row if shard in plan.todo.get(name, ()))
        old = self._old(shard)
        killed: dict[int, str] = {}
        if old is not None:
            rows = self.wanted.manifest.rows_of(shard)
            states = {place: plan.states.get(rows[place]) for place in old.rows}
            killed = {
                place: row.failure
                for place, row in old.rows.items()
                if states[place] is None and row.failure and row.failure.startswith(KILLED)
            }
            old = replace(
                old,
                valid=old.valid.difference(self.forced(plan)),
                files=self._replaced(old, shard, todo),
                rows={
                    place: replace(
                        row,
                        same=states[place] is None,
                        relabelled=states[place] == "relabelled",
                    )
                    for place, row in old.rows.items()
                },
            )
        samples = self.wanted.samples
        numbers = self.wanted.manifest.rows_of(shard)
        return Job(shard, tuple(samples[numbers.start : numbers.stop]), todo, old, killed)

    def _replaced(self, old: OldValues, shard: int, todo: Collection[str]) -> dict[str, Files]:
        """By artifact: the files that a job overwrites in place, as their receipts have them."""
        if old.path != self.wanted.path:
            return {}
        found = {}
        for name in todo:
            try:
                receipt = ledger.read_receipt(old.path, self.artifacts[name], shard)
            except CacheError:  # nothing is copied of it
                continue
            if receipt is not None:
                found[name] = receipt["files"]
        return found

    def _plan_shard(self, plan: Plan, shard: int) -> None:
        rows = self.wanted.manifest.rows_of(shard)
        old = self._old(shard)
        lost = {
            name: reason
            for name in self._per_row
            if (reason := self._lost(self._front, self.artifacts[name], shard))
        }
        if old is None:
            # Only the receipt of its index has the hashes of the files that it was made from.
            # Without them they may have changed since, so all of the shard is made again.
            for name in self._per_row:
                plan.need(name, shard, lost.get(name, "its index is lost"), len(rows))
            return
        known = {rows[place]: row for place, row in old.rows.items()}
        states = self._states(old.path, known)
        plan.states |= states
        set_aside = self._front is None or old.path != self._front.path
        forced = self.forced(plan)
        for name in self._per_row:
            reason = "; ".join(self._aside.changed.get(name, ())) if self._aside else ""
            if name in forced:
                plan.need(name, shard, "what it is made from is made again", len(rows))
            elif name not in old.valid:
                plan.need(name, shard, reason or lost.get(name, ledger.ABSENT), len(rows))
            else:
                why = Counter(
                    _REASONS[state]
                    for state in states.values()
                    if state != "relabelled" or KINDS[name].from_labels
                )
                why.update({"they are new": len(rows) - len(known)} if set_aside else {})
                if set_aside or why:
                    plan.need_rows(name, shard, why, len(rows))

    def _states(self, store: StorePath, known: Mapping[int, OldRow]) -> dict[int, RowState]:
        borrowed = self._aside is not None and self._aside.borrowed and store == self._aside.path
        cache = self._cache(self.wanted.path if borrowed else store)
        states, sound = row_states(
            self.wanted.spec,
            self.wanted.root,
            self.wanted.samples,
            known,
            cache,
            retry_failed=self._retry,
            meter=self._meter,
        )
        if borrowed:  # that labels look the same there proves nothing: other classes are unseen
            for row, old in known.items():
                if old.failure is None:
                    states.setdefault(row, "relabelled")
            return states
        if sound and self._keeps:
            cache.add(self.wanted.samples[row] for row in sound)
        return states

    def _cache(self, store: StorePath) -> StatCache:
        if store not in self._caches:
            self._caches[store] = StatCache(
                store, self.wanted.spec, self.wanted.root, seen=self._seen
            )
        return self._caches[store]

    def _lost(self, known: EarlierStore | None, artifact: Artifact, shard: int) -> str | None:
        """Why an artifact's shard in a store cannot be used; None when it can."""
        if known is None:
            return ledger.ABSENT
        if lines := known.changed.get(artifact.name):
            return "; ".join(lines)
        fingerprint = known.prints[artifact.name]
        return ledger.why_recompute(known.path, artifact, shard, artifact_fingerprint=fingerprint)

    def _old(self, shard: int) -> OldValues | None:
        """What earlier stores know of a shard's rows, before their files are compared."""
        rows = self.wanted.manifest.rows_of(shard)
        if self._front is not None:
            receipts = readable_receipts(self._front, shard)
            if receipts["index"] is not None:
                found = old_rows(receipts["index"], receipts["local"], rows)
                return OldValues(
                    self._front.path,
                    self._front.manifest,
                    self._valid(self._front, shard),
                    dict(enumerate(found)),
                )
        return None if self._aside is None else self._moved(self._aside, rows)

    def _moved(self, aside: EarlierStore, rows: range) -> OldValues | None:
        """What the store set aside knows of these rows' images, which had other rows there."""
        assert aside.row_of is not None
        before = {
            place: row
            for place, number in enumerate(rows)
            if (row := aside.row_of.get(self.wanted.samples[number].id)) is not None
        }
        found: dict[int, OldRow] = {}
        valid = frozenset(self._per_row)
        shard_rows = aside.manifest.shard_rows
        for shard in {row // shard_rows for row in before.values()}:
            receipts = readable_receipts(aside, shard)
            if receipts["index"] is None:
                continue
            valid &= self._valid(aside, shard)
            there = old_rows(receipts["index"], receipts["local"], aside.manifest.rows_of(shard))
            by_row = {row.row: row for row in there}
            found |= {place: by_row[row] for place, row in before.items() if row in by_row}
        return OldValues(aside.path, aside.manifest, valid, found) if found else None

    def _valid(self, known: EarlierStore, shard: int) -> frozenset[str]:
        there = {artifact.name for artifact in known.manifest.artifacts}
        return frozenset(
            name
            for name in self._per_row
            if name in there and self._lost(known, self.artifacts[name], shard) is None
        )


def planned_bytes(plan: Plan, manifest: Manifest) -> int:
    """Bytes of the shards to write, before compression."""
    rows = {
        name: sum(len(manifest.rows_of(shard)) for shard in shards)
        for name, shards in plan.todo.items()
    }
    return sum(
        rows.get(artifact.name, 0) * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        for artifact, spec in manifest.arrays.values()
        if artifact.per_row
    )
