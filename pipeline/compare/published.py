"""Figures of published systems (`configs/published.yaml`), for the runs that they compare with."""

from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from zsseg.stages.data.spec import DatasetSpec, load_spec
from zsseg.stages.train.run_config import Protocol
from zsseg.stages.yaml_files import builtin_names, packaged_values

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_SPLIT = "val"  # the field's papers score no other one


class PublishedFigure(BaseModel):
    """The figures of one system in a paper or repository, in percent; None: not reported."""

    model_config = _STRICT

    system: str
    hIoU: float | None = Field(default=None, gt=0, lt=100)
    sIoU: float | None = Field(default=None, gt=0, lt=100)
    uIoU: float | None = Field(default=None, gt=0, lt=100)
    mIoU: float | None = Field(default=None, gt=0, lt=100)
    pAcc: float | None = Field(default=None, gt=0, lt=100)
    source: str
    inferred: bool = False
    """The source does not state the figures: they follow from others that it states."""
    notes: tuple[str, ...] = ()
    """In what the system's task differs from ours, and what is doubtful in the figures."""


class Published(BaseModel):
    """The file `published.yaml`. `notes` and `sources` hold texts that several figures share."""

    model_config = _STRICT

    notes: dict[str, str]
    sources: dict[str, str]
    figures: dict[str, dict[Protocol, tuple[PublishedFigure, ...]]]


@cache
def published() -> Published:
    """All figures that come with zsseg."""
    return Published.model_validate(packaged_values("published.yaml"), strict=False)


def published_figures(
    spec: DatasetSpec, split: str, protocol: Protocol
) -> tuple[PublishedFigure, ...]:
    """The figures that a run on `spec` compares with, best hIoU first; () where there are none.

    There are figures for `val` of built-in data sets only; a description of the same name with
    other classes or other unseen classes has none.
    """
    if split != _SPLIT or spec.name not in builtin_names("datasets"):
        return ()
    own = load_spec(spec.name)
    if (own.classes, own.unseen) != (spec.classes, spec.unseen):
        return ()
    return published().figures.get(spec.name, {}).get(protocol, ())
