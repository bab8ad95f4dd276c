"""Scores and predictions of a trained student, and scores of the teacher alone.

`evaluation` scores a student on a split, `teacher_evaluation` a store, `hidden_classes` a student
on classes that were hidden from it on purpose, a `validator` one that is in training, `predict`
writes label maps of any images. They use a `trained_run`, `inference` (an image to class scores, by
the `scorer`), `labelling` (scores to labels) and `read_ahead`, and go on with less where the
`memory` is too small. `trained_images` counts the images that a run was trained on, `metrics` has
the formulas, `student_result` puts a run's scores together, `result` has the files that they are
written to.

`predict` finds its files by `prediction_targets`, and goes through videos by `predict_video`. A
`predictor` is a run and the `asked_names`; it makes a `prediction` of an image, with its
`confidence` (`confidence_measure`: which); `prediction_results` says what was found. `vocabulary`
has text embeddings of other class names, `colours` the colour of each, `overlay` the pictures.
"""
