"""The page of `zsseg report`: what trained runs score and look like.

`shown_run` reads a run, `shown_validation` the log of its validations, `shown_images` labels some
of its images, `report_page` writes it all as one HTML file.
"""
