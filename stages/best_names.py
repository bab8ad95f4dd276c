"""Scores of classes that have several names, each with an embedding: the best name's counts.

Text embeddings of classes are (C, D), or (C, S, D) where names are not averaged
(text.synonyms=max): a class with fewer names than S has its first one again, which changes no
maximum.
Legend: C classes, S names of a class, N = C S rows, D CLIP width.
"""

from torch import Tensor


def name_rows(text_CD: Tensor) -> Tensor:
    """(N, D) one row for each name of each class; (C, D) as it is."""
    return text_CD.flatten(0, -2)


def best_names(score: Tensor, text_CD: Tensor, *, dim: int) -> Tensor:
    """The scores of the classes along `dim` (0 or more), from those of `name_rows`."""
    if text_CD.ndim == 2:
        return score
    best: Tensor = score.unflatten(dim, text_CD.shape[:2]).amax(dim + 1)
    return best
