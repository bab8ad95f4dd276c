"""The networks that are trained.

`student` is a network whose last layer projects to CLIP's width, `networks` has the architectures:
those of segmentation_models_pytorch, with `segformer` changed, and `segnext` (on `mscan`) and
`setr`. `encoder_names` knows which encoders there are, `encoder_weights` loads initial weights from
files that `weight_files` finds and reads, `recompute` saves memory, `similarity` has the products
of features and vectors, `student_info` says what a student costs.
"""
