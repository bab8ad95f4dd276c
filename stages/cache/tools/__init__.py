"""What is done to whole stores: `contents` (which file is whose), `removal`, `uses`,
`export_archive` and `import_archive`, `store_comparison`.
"""
