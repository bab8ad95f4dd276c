"""Stage one: run CLIP once over a data set and write the store."""
