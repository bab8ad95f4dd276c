"""Chooses the settings of a training from the store, the machine and the time there is.

`facts.py` is what is known; `choices.py` makes each choice from it, `objectives_for.py` that of the
method and `weights_here.py` that of the encoder by the weights there are; `fitting.py` goes down
to what fits into memory; `make_plan.py` does all of it and says how many steps there is time for;
`planned.py` is the plan: its settings, its reasons, its file.
"""
