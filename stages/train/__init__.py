"""Stage two: train an ordinary segmentation student against the store, without CLIP.

`loop.py` is the loop, `run_config.py` and `method_config.py` every setting, `step.py` the gradients
of one step, `state.py` what a step changes; `batches/`, `students/`, `losses/` are what goes in,
the network, and what it costs; `run/` is what a run leaves on disk. `schedule.py` is the learning
rate, `student_precision.py` the number format, `processes.py` training on several GPUs.

When something goes wrong: `interrupt.py` (Ctrl-C after the step), `capture.py` (a step whose loss
is not finite, kept to be done again), `resource_errors.py` (memory or a process is gone).
"""
