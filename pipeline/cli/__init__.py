"""The commands: each parses its options, calls a function and prints the result.

`main` is the `zsseg` command. `options` has the options and exit codes of several commands,
`forecast_text` and `train_forecast_text` print dry runs; some options of `train` are in
`train_options`; `signals` turns SIGTERM into an orderly end. Each `--help` ends with `examples` and
has the panels of `parameter_extras`; `completion` is what shells offer. Every other file is named
after its command:

- `doctor`, `demo`, `init`, `preview`, `run`, `precompute`, `train`, `evaluate`, `report`,
  `predict`, `app`, `export`, `names`, `push`, `compare`, `ablate`, `tune`
- `dataset`, `config`, `student`: their subcommands are in the file
- `cache`, with its larger subcommands in `cache_manage`, `cache_verify`, `cache_why`, `cache_gap`,
  `cache_show`
- `teacher`, with its subcommand in `teacher_check`
"""
