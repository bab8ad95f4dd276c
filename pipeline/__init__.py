"""What a person drives: commands (`cli/`), settings files, tables, the demo.

`settings.py` turns YAML and `--set` into checked settings, `named_stores.py` finds the store that
is meant, `console.py` and `tables.py` print.
"""
