"""The Zarr store between the two stages: numpy, zarr and fsspec, no torch.

Read `format/` (what a store consists of), `writer.py` (one shard at a time, receipt, seal) and
`reader.py`. Then `reconcile.py` (does the store there fit what is asked), `verify.py` (is it
intact), `tools/` (what `zsseg cache` does to whole stores) and `disk/` (files here and at URLs).
"""
