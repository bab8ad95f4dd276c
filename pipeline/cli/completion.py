"""What a shell offers for names of experiments, data sets, runs and stores.

Asked at every press of the tab key, so nothing heavy is loaded and no store or run is opened.
"""

from collections.abc import Iterable
from pathlib import Path

from zsseg.stages.yaml_files import builtin_names

_CACHE = "data_cache"
_RUNS = "runs"


def experiment_names(incomplete: str) -> list[str]:
    """Experiments that come with zsseg, and YAML files."""
    return _fitting([*builtin_names("experiments"), *_files(incomplete, ".yaml")], incomplete)


def dataset_names(incomplete: str) -> list[str]:
    """Built-in data sets, and YAML files."""
    return _fitting([*builtin_names("datasets"), *_files(incomplete, ".yaml")], incomplete)


def run_folders(incomplete: str) -> list[str]:
    """Folders of runs: those in `runs`, and where the path begun leads."""
    runs = [str(path.parent) for path in sorted(Path(_RUNS).glob("*/run.json"))]
    return _fitting([*runs, *_files(incomplete, None)], incomplete)


def stores(incomplete: str) -> list[str]:
    """Stores: those in `data_cache`, and where the path begun leads."""
    found = [str(path.parent) for path in sorted(Path(_CACHE).glob("*/zarr.json"))]
    return _fitting([*found, *_files(incomplete, None)], incomplete)


def _files(incomplete: str, ending: str | None) -> list[str]:
    """Folders that fit what is typed, and files with an ending."""
    folder = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    folders = [f"{path}/" for path in found if path.is_dir()]
    return [*folders, *(str(path) for path in found if ending and path.suffix == ending)]


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    hidden = incomplete.rpartition("/")[2].startswith(".")
    return [
        name
        for name in dict.fromkeys(names)
        if name.startswith(incomplete) and (hidden or not name.startswith("."))
    ]
