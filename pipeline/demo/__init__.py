"""`zsseg demo`: `demo_run` runs the commands, `demo_report` writes the HTML page, with the SVG
charts of `curves`.
"""
