"""The notebook of first steps runs from its first cell to its last."""

import json
import os
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"


# Its cells are run as one script: no kernel, and no package that only notebooks need.
def test_the_cells_run_in_their_order(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    script = "\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "code")
    (tmp_path / "cells.py").write_text(f"{script}\nresult.scores.hiou\n")
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(NOTEBOOK.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0].endswith("24 images")
    assert "dense (" in shown[2]
    assert shown[-1].startswith("gamma 0")
