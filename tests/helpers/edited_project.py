"""A small project under hypothesis: its data set is edited, and what is true of it is known."""

import os
import shutil
from pathlib import Path
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helpers.file_damage import Harm, swap
from helpers.killable_process import Death
from helpers.small_project import Said
from helpers.undisturbed import NAMES, PICTURES, Drawn, Undisturbed, file_of, key_of
from zsseg.stages.cache.verify import verify_store

names, pictures = st.sampled_from(NAMES), st.integers(0, PICTURES)
kinds = st.sampled_from((("images", "labels"), ("images",), ("labels",)))


class EditedProject(RuleBasedStateMachine):
    """A project, and what is true of it."""

    def __init__(self, drawn: Drawn) -> None:
        super().__init__()
        self.drawn, self.project = drawn, drawn.project()
        self.data = self.project.data()
        self.store_of: Undisturbed | None = None
        """What the store is to be: of the data that it was last completed for."""
        self.run_of: Undisturbed | None = None
        self.archive_of: Undisturbed | None = None
        self.store_harmed = self.run_harmed = False
        """Damaged on purpose since it was made. Truth is compared, this only excuses a refusal."""

    def teardown(self) -> None:
        shutil.rmtree(self.project.folder, ignore_errors=True)

    # What is true

    @property
    def now(self) -> Undisturbed:
        return self.drawn.of(self.project.world, key_of(self.data))

    @property
    def sound(self) -> bool:
        """Is the store byte for byte what it is to be? A kill may have left more beside it."""
        if self.store_of is None:
            return False
        return self.store_of.store.items() <= self.project.content().items()

    @property
    def current(self) -> bool:
        """Is it, and that of the data as it is now?"""
        return self.sound and self.store_of is not None and self.store_of.store == self.now.store

    def do(self, *words: str, death: Death | None = None) -> Said:
        """Run a command, killed or not; what it says when it fails is a message."""
        project = self.project
        said = project.killed(death, *words) if death else project.do(*words)
        self.drawn.ended[" ".join(words[: 1 + (words[0] == "cache")]), said.code] += 1
        assert "Traceback" not in said.text, said.text
        assert said.code in (-9, 0, 2, 3, 4, 5, 7), said
        if said.code not in (-9, 0, 3):
            assert "error: " in said.text, said.text
        return said

    @invariant()
    def nothing_is_written_into_the_data(self) -> None:
        assert self.project.data() == self.data

    @invariant()
    def a_store_that_verifies_is_right(self) -> None:
        store = self.project.store
        if store is None or not (store / "seal.json").exists():
            return
        if not verify_store(store, read_data=True):
            there = self.project.content()
            if self.store_of is None or not self.store_of.store.items() <= there.items():
                assert self.now.store.items() <= there.items()

    # The data set

    def _write(self, kind: str, name: str, content: bytes, *, keep_times: bool) -> None:
        file = file_of(self.project, kind, name)
        before = file.stat() if file.exists() else None
        file.write_bytes(content)
        if keep_times and before is not None:
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(name=names, number=pictures, kind=kinds, keep_times=st.booleans())
    def put(self, name: str, number: int, kind: tuple[str, ...], keep_times: bool) -> None:
        """Add an image, or put another one or its label in the place of one."""
        for each in kind:
            if file_of(self.project, each, name).exists() or len(kind) == 2:
                content = self.drawn.picture(each, number).read_bytes()
                self._write(each, name, content, keep_times=keep_times)
        self.data = self.project.data()

    @rule(name=names, other=names, kind=kinds, how=st.sampled_from(("swap", "remove", "rename")))
    def change(self, name: str, other: str, kind: tuple[str, ...], how: str) -> None:
        for each in kind:
            one, two = (file_of(self.project, each, known) for known in (name, other))
            if how == "remove":
                one.unlink(missing_ok=True)
            elif how == "rename":
                self.project.describe(f"box {name}")
            elif one.exists() and two.exists() and one != two:
                aside = self.project.folder / "aside"
                one.rename(aside)
                two.rename(one)
                aside.rename(two)
        self.data = self.project.data()


def differing(one: dict[str, bytes], two: dict[str, bytes]) -> set[str]:
    """Names of the files that are not the same, or not in both."""
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def harmed(folder: Path | None, number: int, harm: Harm) -> bool:
    """Damage a file of a folder, if there are two to choose from."""
    assert folder is not None
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 1)
    rng = Random(number)
    if len(files) < 2:
        return False
    file, other = rng.sample(files, 2)
    if harm is swap and file.stat().st_size == other.stat().st_size:
        return False  # shards in each other's place: only --read-data compares their content
    harm(file, other, rng)
    return True
