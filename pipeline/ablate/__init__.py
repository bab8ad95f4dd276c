"""`zsseg ablate`: the tables of the papers, trained and scored from one store.

In order: `table_plan` (from a table to the runs it needs), `run_state` (how far a run is),
`shared_work` (do each run once, in several processes if there are), `runs` (train and score one),
`orders` (are our rows ordered as the paper's), `table_report` (Markdown, JSON and CSV).
"""
