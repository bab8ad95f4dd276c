"""Finished stores checked and mended: `against_teacher`, `consistency_gap`, `repair`."""
