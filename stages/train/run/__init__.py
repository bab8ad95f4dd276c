"""What a run leaves on disk: `run_folder` (its record), `checkpoint`, `attempt`.

`metrics_log` writes the log, `trackers` send it to a service as well if asked for. `pretrained`
reads the folder of a student that is handed on.
"""
