"""The files of a store. Read `manifest.py` first: it lists them.

`recipe` compares and hashes the settings that artifacts are made from, `arrays` makes the files of
arrays with zarr, `stored_rows` reads them without it (`row_layout`: how they lie), `codec` stores
dense tokens in fewer bytes and `name_scores` the scores of the map of names in one, `ledger` holds
receipts and the seal.
"""
