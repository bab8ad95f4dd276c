"""What a run has to compute, and why.

`request` (the options of the command) becomes `wanted_store` (path, images, manifest), with
`resolve_auto` (what `auto` stands for) and `recipes` (what each artifact is made from).
`earlier_stores` and `changed_files`, with `stat_cache`, say what is there and still valid;
`work_plan` puts together what is left. `stored_settings` and `store_command` are for the history.
"""
