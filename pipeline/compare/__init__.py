"""Runs side by side: `comparison` reads results, `published` adds published figures,
`comparison_tables` prints them.
"""
