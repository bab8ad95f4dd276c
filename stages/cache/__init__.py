"""The Zarr store between the two stages: recipe, writer, reader, check."""
