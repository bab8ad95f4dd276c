"""Data sets: what their classes are, where their files lie, and how images and labels are read.

Read `spec` (classes, unseen classes, label encoding), then `splits` (the images and labels of a
split, as `samples`). Where files lie: `layouts` has a function per built-in data set, `folders`
pairs images with labels, `pascal_lists` reads PASCAL's lists. `images` and `labels` decode files;
PASCAL Context's other label formats are in `pascal_context`, masks in `run_lengths`. `visible` is
the only way in which labels reach training: without the unseen classes. `geometry` cuts one crop
out of image, label and tokens alike. `class_names` finds names that are one, `dataset_check` is
`zsseg dataset verify`, `problem_summary` what it found by kind, `label_warning` says which classes
no label shows, `held_out_split` which images can score a student. `video` reads and writes videos.
"""
