"""Stage one: run CLIP once over a data set and write the store.

In the order of the work: `run.py` (the command), `plan/` (what is to do, and why), `shard_loop.py`
(the visible loop), `engine/` (here in threads, or in dask workers), `make/` (the arrays of one
shard), `teacher/` (CLIP). `check/` compares and repairs finished stores.
"""
