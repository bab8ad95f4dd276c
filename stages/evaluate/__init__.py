"""Metrics, inference and prediction with a trained student, and scores of the cache alone."""
