"""The papers' tables from one store: `table_plan` (which runs), `runs` (train and score them),
`orders` (does a paper's order hold), `table_report` (the files written).
"""
