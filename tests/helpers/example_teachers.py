"""The teachers of `examples/`, and objects and folders that are none."""

import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COLOURS = f"python:{EXAMPLES / 'python_teacher.py'}:ColourTeacher"
NAMES = ["sky", "ground", "cardboard box", "ball"]


def example(name: str) -> ModuleType:
    """A file of `examples/`, imported as the script that it is."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_maps(images: Path, folder: Path) -> str:
    """The toy model's maps of a folder of images; the teacher's spec."""
    example("tokens_folder").write_folder(images, folder, NAMES)
    return f"tokens:{folder}"
