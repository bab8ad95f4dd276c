"""hIoU = 2SU / (S + U): every printed row that has all three, and the slips that print has."""

import pytest

from zsseg.pipeline.compare.published import published
from zsseg.stages.evaluate.metrics import harmonic_mean

Row = tuple[float, float, float]
"""hIoU, sIoU, uIoU in percent, as printed."""

# The SDD + RST paper, Tables I to V.
TABLES: dict[str, Row] = {
    "I, COCO-Stuff, SPNet+ST": (30.3, 34.6, 26.9),
    "I, COCO-Stuff, ZS5": (16.2, 34.9, 10.6),
    "I, COCO-Stuff, CaGNet+ST": (19.5, 35.6, 13.4),
    "I, COCO-Stuff, STRICT": (34.8, 35.3, 30.3),
    "I, COCO-Stuff, FreeSeg": (45.3, 42.2, 49.1),
    "I, COCO-Stuff, MaskCLIP+": (45.0, 38.1, 54.7),
    "I, COCO-Stuff, Zzseg": (41.5, 39.6, 43.6),
    "I, COCO-Stuff, ZegCLIP+ST": (48.5, 40.7, 59.9),
    "I, COCO-Stuff, CLIP-RC+ST": (49.7, 42.0, 60.8),
    "I, COCO-Stuff, ours, ViT-B": (51.9, 44.5, 62.2),
    "I, COCO-Stuff, ours, SegFormer-B4": (51.3, 44.1, 61.3),
    "I, Context, ZS5": (23.4, 27.0, 20.7),
    "I, Context, MaskCLIP+": (53.3, 44.4, 66.7),
    "I, Context, ZegCLIP+ST": (54.0, 47.2, 63.2),
    "I, Context, CLIP-RC+ST": (55.1, 48.1, 63.2),
    "I, Context, ours, ViT-B": (57.4, 52.8, 63.0),
    "I, Context, ours, SegFormer-B4": (60.3, 53.2, 69.7),
    "II, B": (58.0, 52.6, 64.5),
    "II, B + SDD": (59.3, 53.4, 66.9),
    "II, B + SDD + RST": (60.3, 53.2, 69.7),
    "III, B + ST": (58.2, 53.1, 64.5),
    "III, B + RST": (60.4, 53.4, 69.5),
    "IV, K = 50": (57.6, 53.0, 63.2),
    "IV, K = 75": (60.4, 53.4, 69.5),
    "IV, K = 90": (41.2, 53.3, 33.6),
    "V, 0.01, 0.01": (58.0, 52.6, 64.5),
    "V, 0.05, 0.05": (59.3, 53.4, 66.9),
    "V, 0.07, 0.07": (52.6, 53.2, 52.0),
    "V, 0.07, 0.05": (54.9, 53.1, 56.9),
    "V, 0.05, 0.05 once more": (47.7, 53.1, 43.3),
    "V, 0.05, 0.01": (60.0, 52.6, 69.7),
    "V, 0.07, 0.01": (60.3, 53.2, 69.7),
}

# ZegCLIP's and CLIP-RC's READMEs, fully supervised: the ceiling of those systems, no zero-shot row.
SUPERVISED: dict[str, Row] = {
    "COCO-Stuff, ZegCLIP": (49.6, 40.7, 63.2),
    "COCO-Stuff, CLIP-RC": (51.4, 42.9, 64.1),
    "VOC, ZegCLIP": (91.6, 92.4, 90.9),
    "VOC, CLIP-RC": (93.7, 94.1, 93.4),
}

# What does not follow from its own S and U, with the hIoU that does.
SLIPS = {
    "I, COCO-Stuff, STRICT": 32.6,
    "I, Context, CLIP-RC+ST": 54.6,
    "coco-stuff, transductive, STRICT": 32.6,
    "pascal-context, transductive, CLIP-RC + ST": 54.6,
    # Its U of 41.1 is a slip for 41.4, below.
    "coco-stuff, inductive, ZegCLIP": 40.6,
    "pascal-voc, inductive, zsseg.baseline": 77.6,
    # Its U of 25.6 is a slip for 26.6, below.
    "pascal-voc, inductive, CaGNet": 38.6,
}


def _published() -> dict[str, Row]:
    return {
        f"{dataset}, {protocol}, {figure.system}": (figure.hIoU, figure.sIoU, figure.uIoU)
        for dataset, protocols in published().figures.items()
        for protocol, figures in protocols.items()
        for figure in figures
        if figure.hIoU is not None and figure.sIoU is not None and figure.uIoU is not None
    }


ROWS = TABLES | SUPERVISED | _published()


def _follows(row: Row) -> bool:
    """Could hIoU, S and U be roundings to one decimal of numbers that fit exactly?"""
    printed, seen, unseen = row
    half = 0.05 + 1e-9
    low = harmonic_mean(seen - half, unseen - half)
    high = harmonic_mean(seen + half, unseen + half)
    return low - half <= printed <= high + half


@pytest.mark.parametrize("name", sorted(ROWS))
def test_printed_hiou_follows_from_s_and_u(name: str) -> None:
    printed, seen, unseen = ROWS[name]
    if name in SLIPS:
        assert not _follows((printed, seen, unseen)), "no slip after all"
        assert round(harmonic_mean(seen, unseen), 1) == SLIPS[name]
    else:
        assert _follows((printed, seen, unseen)), f"{harmonic_mean(seen, unseen):.2f}"


def test_every_slip_is_a_row_and_published_ones_say_so() -> None:
    assert set(SLIPS) <= set(ROWS)
    assert len(_published()) > 30
    for dataset, protocols in published().figures.items():
        for protocol, figures in protocols.items():
            for figure in figures:
                message = any(note.startswith("as printed") for note in figure.notes)
                assert message == (f"{dataset}, {protocol}, {figure.system}" in SLIPS)


@pytest.mark.parametrize(
    ("printed", "seen", "unseen"),
    [(40.8, 40.2, 41.4), (39.7, 78.4, 26.6)],
    ids=["ZegCLIP", "CaGNet"],
)
def test_the_unseen_iou_that_was_meant(printed: float, seen: float, unseen: float) -> None:
    assert _follows((printed, seen, unseen))


def test_the_check_would_find_a_slip() -> None:
    assert _follows((60.3, 53.2, 69.7))
    assert not _follows((60.5, 53.2, 69.7))
    assert not _follows(((53.2 + 69.7) / 2, 53.2, 69.7))
