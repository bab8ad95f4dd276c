"""Scores in 8 bits: every code is its own, and none is far from the score that it stands for."""

import math

import numpy as np

from zsseg.stages.cache.format.name_scores import SCORE_OF_CODE, score_codes


def test_codes_by_hand() -> None:
    odds_1 = 1 / (1 + math.exp(-1))
    scores = np.array([0, 1e-30, 0.5, odds_1, 1 - odds_1, 0.9999999, 1], np.float64)
    assert score_codes(scores).tolist() == [1, 1, 128, 138, 118, 255, 255]
    assert score_codes(np.array([0.0, 0.5, 1.0], np.float32)).dtype == np.uint8


def test_every_code_comes_back_as_itself() -> None:
    assert SCORE_OF_CODE[0] == 0
    assert (np.diff(SCORE_OF_CODE) > 0).all()
    codes = np.arange(1, 256)
    assert score_codes(SCORE_OF_CODE[1:]).tolist() == codes.tolist()


def test_scores_come_back_within_a_twentieth_of_their_log_odds() -> None:
    score = np.random.default_rng(0).uniform(1e-5, 1 - 1e-5, 1000)
    again = SCORE_OF_CODE[score_codes(score)].astype(np.float64)
    odds, found = (np.log(p / (1 - p)) for p in (score, again))
    assert np.abs(odds - found).max() < 0.0501
