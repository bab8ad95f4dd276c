"""What a batch costs: `batch_losses` puts together what is configured; the formulas are pure
functions in the other files, `objectives` first.
"""
