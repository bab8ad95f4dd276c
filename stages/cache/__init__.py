"""The Zarr store between the two stages: numpy, zarr and fsspec, no torch.

Read `format/` (what a store consists of), `writer.py` with `shards.py` (one shard at a time,
receipt, seal, `card.py`) and `reader.py`. Then `catalogue.py` (which stores are in a folder),
`reconcile.py` (does the store there fit what is asked; `set_aside.py` where its images changed),
`verify.py` (is it intact; `evidence.py` reads what may be damaged), `dense_loss.py` (what storing
tokens in fewer bytes costs), `tools/` (what `zsseg cache` does to whole stores) and `disk/` (files
on a disk and at URLs).
"""
