"""A small world and a small CLIP that knows it, so that everything can be tried offline."""
