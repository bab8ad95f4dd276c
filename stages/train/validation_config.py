"""Settings of the validation of a run while it trains."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from zsseg.stages.setting_marks import Mark
from zsseg.stages.train.method_config import STRICT

Which = Literal["best", "last"]
"""A checkpoint of a run: that with the best validation, or the newest."""


class ValidationConfig(BaseModel):
    """Scores on held-out images while a run trains. No step of the training depends on them."""

    model_config = STRICT

    every: Annotated[int, Mark(replay="nothing")] = Field(default=0, ge=0)
    """Optimiser steps between validations, and one at the end; 0: never. [ours]"""
    split: Annotated[str | None, Mark(replay="nothing")] = None
    """The split that is validated on; null: of those that are not trained on, the first of val,
    validation, valid, test and any other that has labels. [ours]"""
    images: Annotated[int | None, Mark(replay="nothing")] = Field(default=100, ge=1)
    """At most so many images, spread evenly over the split; null: all. [ours]"""
    unseen: Annotated[bool, Mark(replay="nothing")] = False
    """Look at labels of unseen classes too. The checkpoint that is chosen then owes its scores of
    unseen classes to their labels: no zero-shot result. [ours]"""
    patience: Annotated[int, Mark(replay="nothing")] = Field(default=0, ge=0)
    """End the run after so many validations in a row without a new best one; 0: never. [ours]"""
    pictures: Annotated[int, Mark(result=False, replay="nothing")] = Field(default=4, ge=0)
    """Images of which image, prediction and label are kept from each validation. [ours]"""
