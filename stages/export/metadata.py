"""What an exported file says of itself (`metadata_props` of ONNX, texts by name).

names, colours      of the run's classes, or of the fixed ones: JSON
text, text_shape    their embeddings: float32 in base64, and its sizes
fixed, background   are the names fixed; how many of them, at the end, are background
recipe              the run's settings: JSON
evaluation          scores that `zsseg evaluate` wrote into the run: JSON
licences            what applies to the file
version, opset, precision, confidence, preprocessing
"""

import base64
import json
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx
from onnx import helper

from zsseg.stages.evaluate.asked_names import AskedNames
from zsseg.stages.evaluate.trained_run import TrainedRun
from zsseg.stages.export.network_graph import OPSET
from zsseg.stages.share.run_facts import evaluations, licences, teacher_name

PREFIX = "zsseg."


def add_metadata(
    model: onnx.ModelProto,
    run: TrainedRun,
    asked: AskedNames,
    more: dict[str, Any],
) -> None:
    """Write into a model what it is; `more`: what else, as JSON values by name."""
    text_CD = np.ascontiguousarray(asked.text_KD.cpu().numpy(), dtype=np.float32)
    texts = {
        "text": base64.b64encode(text_CD.tobytes()).decode(),
        "licences": licences(run),
        "version": version("zsseg"),
    }
    values = {
        "names": asked.names,
        "colours": asked.palette[: len(asked.names)].tolist(),
        "text_shape": text_CD.shape,
        "background": len(asked.background),
        "recipe": _recipe(run),
        "evaluation": evaluations(run.path),
        "opset": OPSET,
        **more,
    }
    texts |= {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    helper.set_model_props(model, {f"{PREFIX}{name}": text for name, text in texts.items()})


def _recipe(run: TrainedRun) -> dict[str, Any]:
    """The run's record, with the settings that it is evaluated with here, without folders of this
    machine: a file that is handed on should not name them."""
    record = run.record.model_dump(mode="json", exclude={"root", "store", "check"})
    record["teacher"] = teacher_name(run)
    return record | {"step": run.step, "evaluate": run.evaluate.model_dump()}
