"""Where shards are computed: `jobs` (one shard and its result), `fill_shard` (computes it),
`shard_worker` (one process), `thread_engine` (this process), `dask_engine` with `dask_client`,
`dask_worker` and `isolation` (many processes), `questions` (other work that needs a teacher).
"""
