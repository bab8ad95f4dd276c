"""Files of a store on a disk or at a URL. Read `storage.py` first: it picks the class of a path.

`local` (files of this machine) and `bucket` (objects at a URL) have the same methods; `durable`
writes what survives a power cut, `bucket_requests` makes the requests, `bucket_ahead` holds what
was read ahead. `store_path` reads paths and URLs, `json_files` JSON, `hashing` hashes; `lock` keeps
writers apart, `disk_errors` says what could not be written.
"""
