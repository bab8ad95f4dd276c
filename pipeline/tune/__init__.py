"""`zsseg tune`: chooses settings on seen classes that are hidden in turn, as if they were unseen.

In order: `candidates` (what is tried), `folds` (which classes are hidden, which images held out),
`trials` (train each run once, score it), `tune_plan` (all of these), `fold_stores` (the stores of
folds), `choice` (which candidate is best, do the folds agree), `tune_report` (what is written).
"""
