"""Where shards are computed: `jobs` (what is asked), `fill_shard` (one shard, read to written),
`threads_here`, `cluster` with `dask_client` and `dask_worker`, `questions` (other work that needs
a teacher).
"""
