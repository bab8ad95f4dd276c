"""`zsseg compare`: results of several runs side by side.

`comparison` reads and checks the results, `published` adds figures of published systems,
`comparison_tables` makes tables, JSON and CSV of them.
"""
