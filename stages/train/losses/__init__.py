"""What a batch costs.

`objective_table` has every loss, a line each; `batch_losses` walks it over the `loss_inputs` of a
batch. The formulas are pure functions of tensors: `objectives`, `contrast`, `latent` and `nel`,
with `pseudo_mask` (masks that a crop shows), `self_training` (pseudo labels), `likelihood` and
`strips` (scores of all pixels, a few rows at a time), `resample` (another resolution).
"""
