"""What a training will take, foretold before its first step: memory and time.

`shadow` does steps of tensors without numbers; `measure` counts their memory; `estimate` is the
arithmetic from these to a training; `memory_check` compares with the machine and refuses; `offers`
finds settings that fit; `step_time` times steps of a few crops; `dry_run` is `train --dry-run`.
"""
