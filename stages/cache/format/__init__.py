"""What a store consists of: `manifest` (zarr.json), `recipe` (what an artifact was made from),
`arrays` (zarr), `codec` (dense tokens in fewer bytes), `ledger` (receipts and seal), `fast_rows`
(one row without zarr).
"""
