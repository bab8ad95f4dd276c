"""What a training will take, foretold before its first step: memory and time.

`measure` does single steps of one or two crops; `estimate` is the arithmetic from these to whole
steps; `memory_check` compares with the machine and refuses; `offers` finds settings that fit;
`dry_run` is `train --dry-run`.
"""
