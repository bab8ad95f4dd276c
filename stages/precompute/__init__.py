"""Stage one: run CLIP once over a data set and write the store.

In the order of the work: `precompute_config.py` (the settings), `run.py` (the command), `plan/`
(what is to be computed, and why), `shard_loop.py` (the loop over shards), `engine/` (threads here,
or dask workers), `make/` (the artifacts, one file each), `teacher/` (CLIP). `check/` compares and
repairs finished stores. `forecast.py` with `timing.py` and `memory_forecast.py` is the dry run,
`preview.py` what the teacher makes of a few images, `progress.py` what is reported, `threads.py`
applies a function to many items.
"""
