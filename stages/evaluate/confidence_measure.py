"""What the confidence in a pixel's best name is, for predictions and exported files alike.

With p the softmax of the student's logit scale times the scores of all names, background words
among them:

probability   p1, that of the best name
margin        p1 - p2, its lead over the second name: 0 where both are equal, 1 where there is one
              name only
cosine        the score of the best name itself, not below 0 and not above 1

Scores are those that decide the label: enlarged to the pixel, with gamma taken off seen classes.
"""

from typing import Literal

Measure = Literal["margin", "probability", "cosine"]
