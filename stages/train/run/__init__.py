"""What a run leaves on disk: `run_folder` (its record), `checkpoint`, `metrics_log`, `attempt`."""
