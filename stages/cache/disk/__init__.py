"""Files of a store, here or at a URL: `place` (paths and URLs), `files` (durable writes), `remote`
(whole objects by one request), `lock` (one writer).
"""
