"""The arrays of a shard. `artifacts` is the table of all of them, an `artifact_kind` each:
`index_artifact`, `text_artifact`, `cls_artifact`, `dense_artifact`, `basis_artifact`,
`regions_artifact`, `local_artifact`, `names_artifact`. What they are made by: `pictures` (images
and labels read, as many pixels at once as `pixel_gate` lets through), `recorded_views`,
`pca_basis`, `regions` with `kmeans` or `batched_kmeans` as `backend_choice` says, `class_crops`,
`pooled_tokens` (where there are no crops), `pixel_refinement`; `token_loss` compares tokens.
"""
