"""The two stages, and what they share.

`precompute/` is stage one: CLIP once over the images, into a store. `train/` is stage two: a
student from the store, without CLIP. They never import each other. `evaluate/` scores and applies
what was trained, `share/` hands it on as a folder, `export/` as one file for other runtimes.
Shared: `data/` (images, labels, splits) and `cache/` (the store). `demo/` draws a small world to
try everything on; `importing/` makes a data set of a folder (`zsseg init`).

Single files: `errors` (what a user can mend, with exit codes), `printable` (names as text),
`file_bytes` (files that a user names), `yaml_files` and `validation_errors` (settings read and
checked), `tensor_files` (weights, without what else is in their files), `setting_marks` (what
depends on a setting), `setting_notes` (what is written below it), `offline` (the network is not
asked), `device` (CPU or GPU), `machine_memory` (how much there is), `allocations` (how much tensors
take), `best_names` (scores of classes with several names).
"""
