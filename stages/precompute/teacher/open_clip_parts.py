"""What open_clip makes of a teacher's files: its tokenizer, its text tower, its loaded weights.

Code that lies beside the files never runs: the files of a folder that name code are refused before
(`teacher_config.refuse_code_beside`), transformers reads a private copy of the others, and is told
so for the tokenizer.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import open_clip
from open_clip import factory
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from torch import Tensor, zeros_like

from zsseg.stages.errors import ResourceError, UserError
from zsseg.stages.precompute.teacher.private_copy import FOLDER, private_copy
from zsseg.stages.precompute.teacher.teacher_files import TeacherFiles
from zsseg.stages.precompute.teacher.teacher_weights import Weights


def load_tokenizer(files: TeacherFiles) -> Callable[[list[str]], Tensor]:
    """The tokenizer that the teacher's configuration names.

    That of a folder is read from a private copy of it, never from the network. Raises ResourceError
    when it is not there, or the package that reads it, and UserError for files that hold none.
    """
    tokenizer: Callable[[list[str]], Tensor]
    with private_copy(files.model) as model:
        try:
            if not _text_config(model).get("hf_tokenizer_name"):
                tokenizer = open_clip.get_tokenizer(model)
                return tokenizer
            _never_ask_for_code()
            offline = {"local_files_only": True} if model.startswith(FOLDER) else {}
            tokenizer = open_clip.get_tokenizer(model, trust_remote_code=False, **offline)
        except (OSError, ImportError) as error:
            raise ResourceError(
                f"{files.spec}: its tokenizer cannot be loaded: {_reason(error, model, files)}. "
                "Install the package `transformers` and, without network, put the tokenizer's "
                "files beside the weights (local-dir:FOLDER)"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # the readers of these files raise anything, Exception itself
            raise UserError(
                f"{files.spec}: its tokenizer cannot be loaded: {_reason(error, model, files)}. "
                "Take the tokenizer's files that were published with the weights"
            ) from error
    return tokenizer


def text_tower_settings(model: str) -> dict[str, Any]:
    """Settings of `create_model` that have a folder's text tower of transformers read from there.

    Its configuration would come from the network else. `model` is that of a `private_copy`.
    """
    text = _text_config(model)
    if not text.get("hf_model_name"):
        return {}
    _never_ask_for_code()
    if not model.startswith(FOLDER):
        return {}
    folder = model.removeprefix(FOLDER)
    return {"text_cfg": {**text, "hf_model_name": folder, "hf_model_pretrained": False}}


def _reason(error: Exception, copy: str, files: TeacherFiles) -> str:
    """An error in one line, about the folder itself instead of its copy."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text.replace(copy.removeprefix(FOLDER), files.model.removeprefix(FOLDER))[:300].rstrip(
        "."
    )


def load_weights(model: Any, weights: Weights) -> None:
    """Load weights into a model, those of other versions of CLIP converted as open_clip does it.

    The same steps as `open_clip.load_checkpoint`, which takes files only. Raises RuntimeError for
    weights of another model.
    """
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        mine = getattr(model, name, None)
        if name in weights and mine is not None and mine.ndim != weights[name].ndim:
            weights[name] = weights[name].reshape(mine.shape)
    if "logit_bias" not in weights and getattr(model, "logit_bias", None) is not None:
        weights["logit_bias"] = zeros_like(weights["logit_scale"])
    positions = "text.transformer.embeddings.position_ids"
    if positions in weights and not hasattr(model, positions):
        del weights[positions]
    resize_pos_embed(weights, model)
    resize_text_pos_embed(weights, model)
    model.load_state_dict(weights, strict=True)


def _text_config(model: str) -> dict[str, Any]:
    """The settings of the text tower."""
    text: dict[str, Any] = factory.get_model_config(model)["text_cfg"]
    return text


def _never_ask_for_code() -> None:
    """Have transformers refuse models with code of their own; it would ask at a terminal."""
    code: Any = import_module("transformers.dynamic_module_utils")
    code.TIME_OUT_REMOTE_CODE = 0
