"""The arrays of one shard: `pictures` (images and labels read), `artifacts` (which function makes
what), `recorded_views`, `regions` with `kmeans`, `class_crops`, `pca_basis`, `token_loss`.
"""
