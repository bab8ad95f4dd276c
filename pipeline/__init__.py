"""What a person drives: the commands, and what they print.

`cli/` has one file per command. `ablate/`, `compare/`, `tune/`, `demo/` and `whole_run/` do the
work of the five commands that combine others; `init/`, `preview/`, `report/`, `sheet/` and
`store_page/` write the pages of `zsseg init`, `preview`, `report`, `predict` and `cache show`;
`app/` serves the page of `zsseg app`, `face/` has what `import zsseg` offers. Shared by them:
`run_options` (what is asked of a trained run), `training_plan` (tells a plan), `training_text`
(what a training says), `stored_image` (what a store has of an image), `settings` (YAML files and
`--set` to checked settings), `setting_text` (and back), `named_stores` (from the folder given to
the store meant), `tables`, `html_page` and `console` (output). `machine_report` is what `zsseg
doctor` finds.
"""
