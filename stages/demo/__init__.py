"""A small drawn world, and a small CLIP that knows it, so that everything can be tried offline.

`things` has the shapes, `canvas` paints them, `scenes` puts them into a street, `world` writes
scenes as a data set. `captions` and `train_clip` made the weights in `clip/`.
"""
