"""`zsseg demo`: `demo_run` runs the commands, `demo_report` writes the page with `curves`."""
