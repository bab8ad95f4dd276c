"""Stage two: trains an ordinary segmentation student from the store, without CLIP.

`loop.py` is the loop, `run_config.py` and `method_config.py` every setting, `step.py` the gradients
of one step, `state.py` what a step changes; `batches/` go in, `students/` are the networks,
`losses/` what they are trained by; `run/` is what a run leaves on disk; `foretell/` says before
the first step what memory and time it takes, and `plan/` chooses settings. `schedule.py` is the
learning rate, `student_precision.py` the number format, `processes.py` training on several GPUs.

`between_steps.py` writes checkpoints, and has the run scored while it trains: `validation.py` says
when and which checkpoint was best, `validation_config.py` has the settings.

When something goes wrong: `interrupt.py` (Ctrl-C waits for the end of the step), `capture.py` (a
step whose loss is not finite, kept to be done again), `resource_errors.py` (out of memory, or a
loader process was killed).
"""
