"""What `import zsseg` offers: a trained student, a store and the two stages, from Python.

`model` has the student (`zsseg.load`), `given_image` the images that it takes, `open_store` a store
image by image. `make_store`, `train_student` and `score_student` are the commands `precompute`,
`train` and `evaluate`, which call them; `asked_training` is what a training is asked for,
`given_settings` the settings of all three.
"""
