"""Data, not code: data set descriptions, experiments, prompt templates."""
