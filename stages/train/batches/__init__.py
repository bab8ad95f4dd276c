"""From a store and a data set to batches: `sampling` (which image, which crop), `crops` (image,
label and cached tokens moved alike), `batch`, `packing`, `loader`; `known_classes` and
`store_check` say what a run may know and whether the store fits.
"""
