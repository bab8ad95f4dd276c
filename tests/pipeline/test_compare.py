"""`zsseg compare`: what evaluations left in run folders, side by side, and published figures."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.colour_run import record
from helpers.zsseg_command import called as zsseg

from zsseg.pipeline.compare.ceiling import best_means
from zsseg.pipeline.compare.comparison import compare_runs
from zsseg.pipeline.compare.published import published, published_figures
from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.metrics import scores
from zsseg.stages.evaluate.result import EvaluationResult, save_result, variant
from zsseg.stages.train.run.run_folder import write_record
from zsseg.stages.train.run_config import RunConfig
from zsseg.stages.yaml_files import builtin_names

CAMVID, CONTEXT = load_spec("camvid"), load_spec("pascal-context")


def _run(folder: Path, spec: DatasetSpec = CAMVID, **sections: Any) -> Path:
    """A run folder without a checkpoint; `sections` are parts of its configuration."""
    config = RunConfig.model_validate(sections, strict=False)
    write_record(folder, record(spec, config), torch.zeros(len(spec.classes), 2))
    return folder


def _score(
    run: Path,
    spec: DatasetSpec = CAMVID,
    *,
    noise: int,
    split: str = "val",
    dataset: str | None = None,
    images: int = 40,
    **settings: Any,
) -> EvaluationResult:
    """Write a result into a run: a confusion matrix of 900 right pixels a class and some noise."""
    rng = np.random.default_rng(noise)
    classes = len(spec.classes)
    confusion_CC = rng.integers(0, 40, (classes, classes)) + 900 * np.eye(classes, dtype=np.int64)
    own = RunConfig().evaluate.model_dump()
    used = own | settings
    name = dataset or spec.name
    words = variant(dataset=name, own_dataset=spec.name, settings=used, own_settings=own)
    result = EvaluationResult(
        subject="student",
        source=str(run),
        dataset=name,
        split=split,
        classes=spec.classes,
        unseen=spec.unseen,
        images=images,
        left_out=0,
        trained_on=0,
        settings={"step": 500, "limit": None, "names": list(spec.prompt_names), **used},
        variant=words,
        scores=scores(confusion_CC, spec.unseen_ids),
        confusion_CC=confusion_CC,
    )
    save_result(run, result)
    return result


def _line(shown: str, *words: str) -> str:
    (line,) = [line for line in shown.splitlines() if all(word in line for word in words)]
    return line


def test_every_variant_of_every_run_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = _run(Path("one"), student={"encoder": "mit_b0"}, train={"seed": 3})
    other = _run(Path("other"), protocol="inductive", objectives={"unseen_logits": "suppressed"})
    plain = _score(one, noise=1)
    with_gamma = _score(one, noise=2, calibration=0.02)
    _score(one, noise=6, mode="whole")
    _score(other, noise=3)
    _score(other, noise=4, split="val-night")  # its file's name begins as those of `val` do
    _score(other, noise=5, dataset="sunny")

    found = compare_runs([other, one], "val")
    assert [(row.run, row.result.variant) for row in found.rows] == [
        (other, ()),
        (one, ()),
        (one, ("gamma0.02",)),
        (one, ("mode-whole",)),
    ]
    assert found.means == ()
    assert found.rows[2].scores["hIoU"] == with_gamma.scores.hiou

    zsseg("compare", one, other)
    shown = capsys.readouterr().out
    line = _line(shown, "one", " 0.02 ")
    for text in ("by-hand", "transductive", "segformer/mit_b0", " 500 ", " 3 ", " 0.02 ", " 40 "):
        assert text in line
    means = with_gamma.scores
    percents = [means.hiou, means.siou, means.uiou, means.miou, means.pacc]
    assert line.split()[-5:] == [f"{100 * value:.1f}" for value in percents]
    assert f"{100 * plain.scores.hiou:.1f}" in shown
    assert _line(shown, "one", " mode-whole ")
    assert "inductive" in _line(shown, "other ")
    for protocol in ("transductive", "inductive"):
        assert f"no published figures for camvid val, {protocol}" in shown
    assert len(compare_runs([other], "val-night").rows) == 1


def test_means_are_over_seeds_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, values = [], []
    for seed in (2, 0, 1):
        run = _run(tmp_path / f"seed-{seed}", train={"seed": seed, "workers": seed})
        values.append(_score(run, noise=seed).scores.hiou)
        _score(run, noise=10 + seed, calibration=0.1)
        runs.append(run)
    longer = _run(tmp_path / "longer", train={"seed": 0, "steps": 9})
    _score(longer, noise=9)
    half = _run(tmp_path / "half", train={"seed": 5})
    _score(half, noise=8, images=20)  # not the same images, so no part of the mean

    found = compare_runs([*runs, longer, half], "val", mean=True)
    plain, with_gamma = found.means
    assert [row.run.name for row in plain.rows] == ["seed-0", "seed-1", "seed-2"]
    centre = sum(values) / 3
    spread = math.sqrt(sum((value - centre) ** 2 for value in values) / 2)
    assert plain.mean["hIoU"] == pytest.approx(centre)
    assert plain.deviation["hIoU"] == pytest.approx(spread)
    assert {row.result.variant for row in with_gamma.rows} == {("gamma0.1",)}

    zsseg("compare", *runs, longer, "--mean")
    shown = capsys.readouterr().out
    assert shown.count("mean, n = 3") == 2
    assert f"{100 * centre:.1f} ± {100 * spread:.1f}" in shown
    assert shown.count(" 0 1 2 ") == 2

    again = _run(tmp_path / "again", train={"seed": 1})
    _score(again, noise=1)
    with pytest.raises(UserError, match=r"again are the same experiment with the same seed 1"):
        compare_runs([*runs, again], "val", mean=True)
    assert len(compare_runs([*runs, again], "val").rows) == 7


def test_one_run_has_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _score(_run(tmp_path / "one"), noise=1)
    zsseg("compare", tmp_path / "one", "--mean")
    assert "no mean: no two of these results differ in their seed only" in capsys.readouterr().out


def test_json_and_csv_hold_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [_run(tmp_path / str(seed), CONTEXT, train={"seed": seed}) for seed in (0, 1)]
    results = [_score(run, CONTEXT, noise=number) for number, run in enumerate(runs)]
    table = tmp_path / "tables" / "all.csv"
    zsseg("compare", *runs, "--mean", "--json", "--csv", table)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["dataset"], printed["split"]) == ("pascal-context", "val")
    assert [row["run"] for row in printed["runs"]] == [str(run) for run in runs]
    assert printed["runs"][1]["scores"]["uIoU"] == results[1].scores.uiou
    assert (printed["runs"][0]["gamma"], printed["runs"][0]["variant"]) == (0.0, [])
    (mean,) = printed["means"]
    assert (mean["n"], mean["seeds"]) == (2, [0, 1])
    assert mean["mean"]["mIoU"] == pytest.approx(sum(r.scores.miou for r in results) / 2)
    shown = {entry["system"]: entry for entry in printed["published"]["transductive"]}
    ours = shown["SDD + RST, SegFormer-B4"]["scores"]
    assert ours == {"hIoU": 0.603, "sIoU": 0.532, "uIoU": 0.697, "mIoU": None, "pAcc": None}

    rows = list(csv.DictReader(table.read_text().splitlines()))
    figures = len(published().figures["pascal-context"]["transductive"])
    assert [row["kind"] for row in rows] == ["run", "run", "mean", *["published"] * figures]
    assert rows[0]["hIoU"] == f"{results[0].scores.hiou:.4f}"
    assert (rows[2]["n"], rows[2]["seed"]) == ("2", "0 1")
    assert float(rows[2]["pAcc deviation"]) == pytest.approx(mean["deviation"]["pAcc"], abs=5e-5)
    assert (rows[3]["name"], rows[3]["hIoU"], rows[3]["sIoU"]) == ("OC-ZSS", "0.6190", "")


def test_runs_with_every_label_are_the_ceiling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsseg.pipeline.console.out.width", 300)
    ours = _run(tmp_path / "ours", objectives={"sdd": 1.0})
    result = _score(ours, noise=1)
    full = load_spec("camvid-full")
    labelled = [_run(tmp_path / f"full-{seed}", full, train={"seed": seed}) for seed in (0, 1)]
    confusions = []
    for seed, run in enumerate(labelled):
        # The same labelled pixels, some of them in another column.
        moved = 100 * (seed + 1) * np.eye(11, dtype=np.int64)
        confusions.append(result.confusion_CC - moved + np.roll(moved, 1, axis=1))
        save_result(
            run,
            replace(result, dataset="camvid-full", unseen=(), confusion_CC=confusions[-1]),
        )
    found = compare_runs([labelled[0], ours, labelled[1]], "val", mean=True)
    by_hand = [scores(each, CAMVID.unseen_ids).hiou for each in confusions]
    assert [row.scores["hIoU"] for row in found.rows] == [
        by_hand[0],
        result.scores.hiou,
        by_hand[1],
    ]
    assert found.ceilings == {"by-hand": pytest.approx(sum(by_hand) / 2)}
    share = result.scores.hiou / (sum(by_hand) / 2)
    assert found.shares(result.scores.hiou) == {"by-hand": pytest.approx(share)}

    table = tmp_path / "all.csv"
    zsseg("compare", *labelled, ours, "--mean", "--csv", table)
    shown = capsys.readouterr().out
    assert _line(shown, "ours").rstrip().endswith(f"{100 * share:.1f}")
    assert "of by-hand: share of its hIoU" in shown
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["of by-hand"]) for row in rows[2:]] == pytest.approx([share, 1], abs=1e-4)
    zsseg("compare", *labelled, ours, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"][2]["of_ceilings"]["by-hand"] == pytest.approx(share)

    # Other images are another task, however much the classes agree.
    _score(_run(tmp_path / "other", full), full, noise=7)
    with pytest.raises(UserError, match="were scored on different tasks"):
        compare_runs([ours, tmp_path / "other"], "val")
    # Alone they are runs like any other.
    assert compare_runs(labelled, "val").ceilings == {}


def test_the_best_schedule_of_an_experiment_is_its_ceiling() -> None:
    values = [("full", "200", 0.4), ("full", "200", 0.5), ("full", "800", 0.6), ("ce", "", 0.3)]
    assert best_means(values) == {"full": 0.6, "ce": 0.3}
    assert best_means(values[:2]) == {"full": pytest.approx(0.45)}


def test_what_others_knew_stands_beside_their_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsseg.pipeline.console.out.width", 200)
    for protocol in ("transductive", "inductive"):
        run = _run(tmp_path / protocol, CONTEXT, protocol=protocol)
        _score(run, CONTEXT, noise=1)
    zsseg("compare", tmp_path / "transductive", tmp_path / "inductive")
    shown = capsys.readouterr().out
    first, second = shown.split("published for pascal-context val, inductive")
    for system, figure in (("ZegCLIP + ST", "54.0"), ("MaskCLIP+", "53.3")):
        assert "told in training which unlabelled pixels hide an unseen class" in _line(
            first, system, figure
        )
    assert "uses DINO" in _line(first, "OC-ZSS", "61.9")
    assert "other unseen classes" in _line(first, "Cascade-CLIP", "55.7")
    assert "≈58.5" in _line(second, "CLIP-ZSS")
    assert "hide an unseen class" not in second


def test_a_narrow_screen_folds_notes_no_further_than_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path / "run", CONTEXT)
    _score(run, CONTEXT, noise=1)
    monkeypatch.setattr("zsseg.pipeline.console.out.width", 40)
    zsseg("compare", run)
    published_lines = capsys.readouterr().out.split("published for")[1].splitlines()
    assert 100 < max(map(len, published_lines)) <= 120
    assert _line("\n".join(published_lines), "SDD + RST, SegFormer-B4", "60.3", "Table I")


def test_published_figures_are_of_the_builtin_task_only() -> None:
    assert set(published().figures) == {"coco-stuff", "pascal-voc", "pascal-context"}
    for name in builtin_names("datasets"):
        for protocol in ("transductive", "inductive"):
            figures = published_figures(load_spec(name), "val", protocol)
            assert bool(figures) == (name in published().figures)
            known = [figure.hIoU for figure in figures if figure.hIoU is not None]
            assert known == sorted(known, reverse=True)
            assert len({figure.system for figure in figures}) == len(figures)
    assert published_figures(CONTEXT, "train", "transductive") == ()
    fewer = CONTEXT.model_copy(update={"unseen": CONTEXT.unseen[1:]})
    assert published_figures(fewer, "val", "transductive") == ()


def test_systems_that_know_which_pixels_are_unseen_say_so() -> None:
    leak = published().notes["leak"]
    for name, protocols in published().figures.items():
        telling = {figure.system for figure in protocols["transductive"] if leak in figure.notes}
        known = {"ZegCLIP + ST", "MaskCLIP+", "CLIP-RC + ST", "OTSeg+", "Cascade-CLIP"}
        assert telling == known, name
        assert not any(leak in figure.notes for figure in protocols["inductive"])


def test_a_run_without_a_result_is_told_how_to_get_one(tmp_path: Path) -> None:
    one, other = _run(tmp_path / "one"), _run(tmp_path / "other")
    _score(one, noise=1)
    _score(other, noise=1, split="test")
    _score(other, noise=2, dataset="sunny")
    with pytest.raises(UserError) as error:
        compare_runs([one, other], "val")
    assert "other: holds no result on split 'val' of 'camvid'" in str(error.value)
    assert f"zsseg evaluate --run {other} --split val" in str(error.value)
    for nothing in (tmp_path, one / "run.json", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"run\.json: the file is missing"):
            compare_runs([nothing], "val")
    with pytest.raises(UserError, match="one: given twice"):
        compare_runs([one, tmp_path / "other" / ".." / "one"], "val")


def test_what_else_lies_among_runs_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = _run(tmp_path / "one")
    _score(one, noise=1)
    (tmp_path / "ablations").mkdir()
    (tmp_path / "seed-0.lock").touch()
    found = compare_runs(sorted(tmp_path.iterdir()), "val")
    assert [row.run for row in found.rows] == [one]
    for name in ("ablations", "seed-0.lock"):
        assert f"{tmp_path / name}: left out, it is no run" in caplog.messages
    with pytest.raises(UserError, match=r"on is no run\. Give a folder"):
        compare_runs([one, tmp_path / "on"], "val")


def test_a_flipped_digit_in_a_result_is_noticed(tmp_path: Path) -> None:
    run = _run(tmp_path / "one")
    _score(run, noise=1)
    file = run / "evaluation-val.json"
    counts = file.read_text()
    file.write_text(counts.replace("[[9", "[[1"))
    assert file.read_text() != counts
    with pytest.raises(UserError, match=r"evaluation-val\.json: damaged.*do not agree"):
        compare_runs([run], "val")


@pytest.mark.parametrize("text", ["{", "[]", '{"subject": "student"}'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    run = _run(tmp_path / "one")
    (run / "evaluation-val.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluation-val\.json: damaged.*Delete it, and run"):
        compare_runs([run], "val")


def test_other_data_or_classes_are_refused(tmp_path: Path) -> None:
    one = _run(tmp_path / "one")
    _score(one, noise=1)
    context = _run(tmp_path / "context", CONTEXT)
    _score(context, CONTEXT, noise=1)
    with pytest.raises(UserError, match=r"data set: camvid and pascal-context") as error:
        compare_runs([one, context], "val")
    assert "classes only in" in str(error.value)

    hides_sky = CAMVID.model_copy(update={"unseen": ("sky", "car")})
    other = _run(tmp_path / "other", hides_sky)
    _score(other, hides_sky, noise=1)
    with pytest.raises(UserError) as error:
        compare_runs([one, other], "val")
    assert f"unseen only in {one}: pavement, tree" in str(error.value)
    assert f"unseen only in {other}: sky" in str(error.value)

    turned = CAMVID.model_copy(update={"classes": CAMVID.classes[::-1]})
    third = _run(tmp_path / "third", turned)
    _score(third, turned, noise=1)
    with pytest.raises(UserError, match="classes: the same in another order"):
        compare_runs([one, third], "val")
