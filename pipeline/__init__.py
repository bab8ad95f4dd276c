"""What a person drives: commands, configuration files, reports."""
