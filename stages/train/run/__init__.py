"""What a run leaves on disk: `run_folder` (its record), `checkpoint`, `metrics_log`, `attempt`.

`pretrained` reads the folder of a student that is handed on.
"""
