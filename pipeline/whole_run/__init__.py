"""`zsseg run`: all stages from a data set to a scored student, as commands that one could type.

`stage_commands.py` makes the command of each stage, `store_choice.py` says which store is meant and
with which settings it is made, `scored_split.py` which images can score the student;
`run_stages.py` runs them and says where to look.
"""
