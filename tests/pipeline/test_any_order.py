"""Commands, edits, kills and damage in any order: each result is right, or a message says why not.

Right is what the commands make of the same data undisturbed, byte for byte. Commands are those that
a person types, and hypothesis chooses them. `ZSSEG_STATEFUL=1000` tries that many sequences, drawn
anew each time (`--hypothesis-seed=N` repeats them); `--log-cli-level=INFO` says how commands ended.
"""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.clip_store import load_once
from helpers.edited_project import EditedProject, differing, harmed
from helpers.file_damage import HARMS, Harm
from helpers.killable_process import POINTS, Death
from helpers.small_project import Said, evaluate_words, label_maps, predict_words, scores_in
from helpers.tiny_training import metrics_of, train_tiny_students
from helpers.undisturbed import Drawn, Undisturbed
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from zsseg.stages.cache.verify import verify_store

EXAMPLES, STEPS = 8, 14
LONG = "ZSSEG_STATEFUL" in os.environ
_ALONE = "ZSSEG_ANY_ORDER_ALONE"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc"),
    pytest.mark.timeout(12 * 3600 if LONG else 300),
]

numbers = st.integers(0, 10**6)
updates, resumes = st.booleans(), st.booleans()
points, passages = st.sampled_from(POINTS), st.integers(1, 8)
harms = st.sampled_from(HARMS[:5])
_log = logging.getLogger(__name__)


class AnyOrder(EditedProject):
    """The commands, in any order."""

    @initialize(store=st.booleans(), run=st.booleans())
    def begin(self, store: bool, run: bool) -> None:
        """Most sequences begin with what most of them need."""
        if store:
            self.precompute(update=False)
        if store and run:
            self._train(resume=False)

    # The store

    def _settle(self) -> None:
        """After a kill: is the store that of the data as it is now?"""
        if not self.sound and self.now.store.items() <= self.project.content().items():
            self.store_of = self.now if self.now.store else None

    @rule(update=updates)
    def precompute(self, update: bool) -> None:
        there, sound = self.project.store is not None, self.sound
        said = self.do(*self.project.precompute(*["--update"] * update))
        if said.code in (0, 3):
            self._check_completed(said)
        elif said.code != self.now.made.code:
            assert there, said.text
            assert self.store_harmed or not sound or not (update or self.current), said.text

    def _check_completed(self, said: Said) -> None:
        """The store is right, or what is wrong with it is what `verify` names."""
        assert said.code == self.now.made.code, said.text
        store, self.store_of = self.project.store, self.now
        assert store is not None
        if damaged := {each.file for each in verify_store(store, read_data=True)}:
            assert self.store_harmed
            there = self.project.content()
            assert differing(self.now.store, there) <= damaged
        else:
            assert not differing(self.now.store, self.project.content())
            self.store_harmed = False

    @rule(update=updates, point=points, passage=passages)
    def kill_precompute(self, update: bool, point: str, passage: int) -> None:
        words = self.project.precompute(*["--update"] * update)
        said = self.do(*words, death=Death(point, passage))
        if said.code in (0, 3):
            self._check_completed(said)
        self._settle()

    @precondition(lambda self: self.project.store is not None)
    @rule(number=numbers, harm=harms)
    def harm_store(self, number: int, harm: Harm) -> None:
        self.store_harmed = harmed(self.project.store, number, harm) or self.store_harmed

    @precondition(lambda self: self.project.store is not None)
    @rule()
    def verify(self) -> None:
        sound, store = self.sound, self.project.store
        said = self.do("cache", "verify", str(store), "--read-data")
        if said.code == 0:
            assert self.store_of is not None
            assert self.store_of.store.items() <= self.project.content().items()
        else:
            assert self.store_harmed or not sound, said.text

    @precondition(lambda self: self.project.store is not None)
    @rule()
    def repair(self) -> None:
        excused = self.store_harmed or not self.sound
        said = self.do("cache", "verify", str(self.project.store), "--repair")
        self._settle()
        if said.code == 0:
            assert self.store_of is not None
            assert self.store_of.store.items() <= self.project.content().items()
            self.store_harmed = False
        else:
            assert excused, said.text

    @rule(unfinished=st.booleans())
    def prune(self, unfinished: bool) -> None:
        if not self.project.cache.exists():
            return
        sound = self.sound
        said = self.do("cache", "prune", str(self.project.cache), *["--unfinished"] * unfinished)
        assert said.code == 0, said.text
        assert self.sound or not sound

    @precondition(lambda self: self.project.store is not None)
    @rule(back=st.booleans())
    def remove_store(self, back: bool) -> None:
        """Delete the store, and get back what was exported."""
        said = self.do("cache", "rm", "-y", str(self.project.store))
        assert (said.code == 0) == (self.project.store is None), said.text
        if said.code:
            return
        self.store_of, self.store_harmed = None, False
        if back and self.archive_of is not None:
            said = self.do("cache", "import", self._archive, "--cache", str(self.project.cache))
            assert said.code in (0, 5), said.text
            if said.code == 0:
                self.store_of = self.archive_of
                assert self.project.content() == self.store_of.store

    @property
    def _archive(self) -> str:
        return str(self.project.folder / "store.tar")

    @precondition(lambda self: self.project.store is not None)
    @rule()
    def export(self) -> None:
        sound = self.sound
        Path(self._archive).unlink(missing_ok=True)
        said = self.do("cache", "export", str(self.project.store), self._archive)
        assert said.code == 0 or not sound or self.store_harmed, said.text
        if said.code == 0:
            assert sound
            self.archive_of = self.store_of

    # The run

    def _train(self, *, resume: bool, death: Death | None = None) -> None:
        if not self.project.checkpoints():  # it begins
            self.run_of, self.run_harmed = self.store_of, False
        fresh = resume or not self.project.checkpoints()
        said = self.do(*self.project.train(resume=resume), death=death)
        if said.code == 0:
            assert self.run_of is not None
            self._check_trained(self.run_of)
        elif said.code > 0 and self.run_of is not None and self.store_of is not None:
            fits = fresh and self.run_of.store == self.store_of.store and self.current
            if fits and not (self.store_harmed or self.run_harmed):
                assert self.run_of.trained.code == said.code, said.text

    def _check_trained(self, wanted: Undisturbed) -> None:
        """The newest checkpoint is that of an undisturbed run, and so is the log."""
        newest = self.project.checkpoints()[-1]
        for file in sorted(newest.iterdir()):
            other = wanted.run / file.relative_to(self.project.run)
            assert file.read_bytes() == other.read_bytes(), file
        if not self.run_harmed:
            assert metrics_of(self.project.run) == metrics_of(wanted.run)

    @rule(resume=resumes)
    def train(self, resume: bool) -> None:
        self._train(resume=resume)

    @precondition(lambda self: self.store_of is not None)
    @rule(resume=resumes, point=points, passage=passages)
    def kill_train(self, resume: bool, point: str, passage: int) -> None:
        self._train(resume=resume, death=Death(point, passage))

    @precondition(lambda self: self.project.run.exists())
    @rule(number=numbers, harm=harms)
    def harm_run(self, number: int, harm: Harm) -> None:
        self.run_harmed = harmed(self.project.run, number, harm) or self.run_harmed

    @precondition(lambda self: self.project.run.exists())
    @rule()
    def remove_run(self) -> None:
        shutil.rmtree(self.project.run)
        self.run_of, self.run_harmed = None, False

    @precondition(lambda self: self.project.checkpoints())
    @rule()
    def evaluate(self) -> None:
        said = self.do(*evaluate_words(self.project))
        assert said.code == 0 or self.run_harmed, said.text
        if said.code == 0:
            found = scores_in(self.project.run)
            assert self.run_of is not None
            wanted = self.run_of.scores(found["settings"]["step"])
            if found["trained_on"] is None:  # the store is not there, or another one
                found["trained_on"] = wanted["trained_on"]
            assert found == wanted

    @precondition(lambda self: self.project.checkpoints())
    @rule()
    def predict(self) -> None:
        out = self.project.folder / "predictions"
        shutil.rmtree(out, ignore_errors=True)
        said = self.do(*predict_words(self.project, out))
        assert said.code == 0 or self.run_harmed, said.text
        if said.code == 0:
            assert self.run_of is not None
            steps = (1, 2)
            assert label_maps(out) in [self.run_of.labels(step) for step in steps]


@pytest.fixture
def drawn(tmp_path: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    monkeypatch.setattr("zsseg.stages.precompute.teacher.clip_teacher.load_teacher", load_once)
    train_tiny_students(monkeypatch)
    return Drawn(tmp_path, tiny_clip)


def test_every_result_is_right_or_a_message_says_what_is_not() -> None:
    """In an interpreter of its own: killed commands are forked from it, and what is forked after
    some kinds of backward passes, which other tests may have made, can make none itself."""
    this = f"{__file__}::test_in_this_interpreter"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", this],
        env=os.environ | {_ALONE: "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.skipif(_ALONE not in os.environ, reason="run by the test before it")
def test_in_this_interpreter(drawn: Drawn) -> None:
    torch.set_num_threads(1)  # as in the processes that are killed
    run_state_machine_as_test(
        lambda: AnyOrder(drawn),  # type: ignore[arg-type]
        settings=settings(
            max_examples=int(os.environ.get("ZSSEG_STATEFUL", EXAMPLES)),
            stateful_step_count=STEPS,
            derandomize=not LONG,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for (command, code), count in sorted(drawn.ended.items()):
        _log.info("%s: exit %d, %d times", command, code, count)
