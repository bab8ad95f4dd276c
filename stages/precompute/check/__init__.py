"""Finished stores checked and mended: `against_teacher`, `consistency_gap`, `repair`; and a
teacher tried before there is one, `teacher_contract`.
"""
