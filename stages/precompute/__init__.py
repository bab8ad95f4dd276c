"""Stage one: run CLIP once over a data set and write the store.

In the order of the work: `precompute_config.py` (the settings), `run.py` (the command), `plan/`
(what is to do, and why), `shard_loop.py` (the visible loop), `engine/` (here in threads, or in dask
workers), `make/` (the arrays of one shard), `teacher/` (CLIP). `check/` compares and repairs
finished stores. `forecast.py` with `timing.py` is the dry run, `progress.py` what is reported,
`threads.py` applies a function to many items.
"""
