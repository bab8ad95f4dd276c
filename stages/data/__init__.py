"""Data sets: class lists and splits, samples on disk, decoding, hiding of unseen labels, views."""
