"""What a run has to compute, and why.

`request` (the options of the command) becomes `wanted_store` (path, images, manifest), with
`auto_size` (dense.size=auto), `resolve_auto` (other values of `auto`) and `recipes` (identity and
artifacts). `earlier_stores` and `changed_files`, with `stat_cache`, find what is stored and still
valid; `work_plan` lists the rest.
`stored_settings` reads settings back from a store, `store_command` writes the card's command.
"""
