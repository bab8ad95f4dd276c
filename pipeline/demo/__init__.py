"""`zsseg demo`: `demo_run` runs the commands of `demo_commands`, `demo_scores` puts the results
side by side, `demo_pictures` makes the pictures, and `demo_report` writes the HTML page, with the
SVG charts of `curves`.
"""
