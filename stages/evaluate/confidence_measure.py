"""What the confidence in a pixel's best name is, for predictions and exported files alike.

With p the softmax of the student's logit scale times the scores of all names, background words
among them:

probability   p1, that of the best name
margin        p1 - p2, its lead over the second name: 0 where both are equal, 1 where there is one
              name only
cosine        the score of the best name itself, not below 0 and not above 1

Scores are those that decide the label: enlarged to the pixel, with gamma taken off seen classes.
"""

from typing import Literal, get_args

from zsseg.stages.errors import UserError

Measure = Literal["margin", "probability", "cosine"]


def check_measure(measure: str) -> None:
    """Raise UserError for a word that is no measure."""
    if measure not in get_args(Measure):
        known = ", ".join(get_args(Measure))
        raise UserError(f"confidence is {measure!r}. Use one of {known}")
