"""`zsseg compare`: results of several runs side by side.

`comparison` reads and checks the results, `ceiling` scores runs that had every label, `published`
adds figures of published systems, `comparison_tables` makes tables, JSON and CSV of them.
"""
