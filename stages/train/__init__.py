"""Stage two: train an ordinary segmentation student against the store, without CLIP.

`loop.py` is the loop, `run_config.py` and `method_config.py` every setting, `step.py` the gradients
of one step, `state.py` what a step changes; `batches/`, `students/`, `losses/` are what goes in,
the network, and what it costs; `run/` is what a run leaves on disk.
"""
