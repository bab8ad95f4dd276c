"""What `import zsseg` offers: a trained student, a store and the two stages, from Python.

`model` has the student (`zsseg.load`), `given_image` the images that it takes, `open_store` a store
image by image, `stage_functions` what the commands `precompute`, `train` and `evaluate` do.
"""
