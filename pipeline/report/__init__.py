"""The page of `zsseg report`: what trained runs score and look like.

`shown_run` reads a run, `shown_validation` the log of its validations, `shown_images` labels some
of its images, `shown_teacher` has what a store's teacher says of them, `training_images` the pseudo
labels of a few that it was trained on, `shown_cost` times and sizes; `report_page` writes it all as
one HTML file.
"""
