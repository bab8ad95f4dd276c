"""Runs `zsseg` commands in this process."""

import sys

from zsseg.pipeline.cli.main import app, main


def zsseg(*words: object) -> int:
    """Run a command as a person does; its exit code."""
    before = sys.argv
    sys.argv = ["zsseg", *map(str, words)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def called(*words: object) -> int:
    """Run a command; its exit code. Its errors are raised."""
    return int(app([str(word) for word in words], standalone_mode=False) or 0)
