"""The commands: parse, call, print. One file per command, named after it.

Start with `main.py`; `options.py` has what commands share, `run_options.py` what those share that
use a trained run.
"""
