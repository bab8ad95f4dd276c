"""What a run has to compute, and why: `request` (the store asked for), `recipes` (what it is made
from), `earlier_stores`, `changed_files` with `stat_cache`, `work_plan`.
"""
