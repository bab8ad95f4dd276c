"""What an export needs beside zsseg."""

from importlib.util import find_spec

from zsseg.stages.errors import UserError

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Raise UserError where a package that exports are made or tried with is not installed."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UserError(
            f"an export needs {', '.join(missing)}. Install zsseg's extra: pip install "
            "'zsseg[export]'"
        )
