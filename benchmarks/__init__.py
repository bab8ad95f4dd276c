"""Benchmarks: every ratio that the documentation quotes, both sides measured in one run."""
