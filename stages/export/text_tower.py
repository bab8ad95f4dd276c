"""A teacher's text tower as ONNX, and its tokenizer in the form that `tokenizers` reads.

Prompts become embeddings then without open_clip and torch: `tokenizer.json` is a file of Hugging
Face's library `tokenizers` (Rust, Python, and others), which gives the ids of open_clip's tokenizer
but for what that mends in broken text before (ftfy, HTML entities).

Legend: n prompts, L tokens of a prompt, D CLIP width.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsseg.stages.cache.disk.durable import write_durably
from zsseg.stages.errors import UserError
from zsseg.stages.export.agreement import open_session
from zsseg.stages.export.network_graph import OPSET
from zsseg.stages.export.quiet_exporter import quiet_exporter
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

TOWER, TOKENIZER = "text_tower.onnx", "tokenizer.json"
_PROMPTS = ("a photo of a car.", "tree", "there is a traffic cone in the scene.")
_MOST_APART = 1e-3
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

_PIECES: dict[str, Any] = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": _PATTERN},
                "behavior": "Removed",
                "invert": True,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
        ],
    },
}
"""How a prompt is cut into words and these into bytes."""


class _Tower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.model.encode_text(tokens), dim=-1)


def export_text_tower(teacher: str, folder: Path, *, force: bool = False) -> tuple[Path, Path]:
    """Write TOWER (`tokens` (n, L) int64 to `text_embedding` (n, D), length 1) and TOKENIZER.

    The embedding of a class is the mean of its prompts', of length 1 again. Raises UserError for a
    teacher that is no CLIP of open_clip with its own tokenizer, and where a file is there already.
    """
    tower, tokenizer = folder / TOWER, folder / TOKENIZER
    for path in (tower, tokenizer):
        if path.exists() and not force:
            raise UserError(f"{path}: is there already. Give another --out, or add --force")
    opened: Any = open_teacher(resolve_teacher(teacher), device="cpu")
    if type(opened.tokenizer).__name__ != "SimpleTokenizer" or not hasattr(opened, "model"):
        raise UserError(
            f"{teacher}: has no text tower with open_clip's own tokenizer, which alone can be "
            "written. Give names as embeddings: zsseg names"
        )
    tokens = opened.tokenizer(list(_PROMPTS))
    module = _Tower(opened.model).eval()
    with quiet_exporter():
        program = torch.onnx.export(
            module,
            (tokens,),
            input_names=["tokens"],
            output_names=["text_embedding"],
            dynamo=True,
            dynamic_shapes={"tokens": {0: torch.export.Dim("prompts", min=1)}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _write_tried(model, module, tokens, tower)
    text = json.dumps(tokenizer_file(opened.tokenizer), ensure_ascii=False)
    write_durably(tokenizer, text.encode())
    return tower, tokenizer


def _write_tried(model: onnx.ModelProto, module: nn.Module, tokens: Tensor, path: Path) -> None:
    """Write a tower that gives PyTorch's embeddings. Raises UserError for another."""
    write_durably(path, model.SerializeToString())
    with torch.inference_mode():
        expected_nD = module(tokens).numpy()
    (found_nD,) = open_session(path).run(None, {"tokens": tokens.numpy()})
    if not (apart := float(np.abs(found_nD - expected_nD).max())) <= _MOST_APART:
        path.unlink()
        raise UserError(
            f"the exported text tower differs from PyTorch's by {apart:.1e}. Nothing is kept; give "
            "names as embeddings: zsseg names"
        )


def tokenizer_file(tokenizer: Any) -> dict[str, Any]:
    """The content of `tokenizer.json` of open_clip's byte-pair tokenizer.

    Lower case, one blank between words; a start, at most L - 2 tokens, an end, then zeros.
    """
    length, start, end = (
        tokenizer.context_length,
        tokenizer.sot_token_id,
        tokenizer.eot_token_id,
    )
    special = {number: tokenizer.decoder[number] for number in (start, end)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": length,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": length},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": tokenizer.decoder[0],
        },
        "added_tokens": [
            {"id": number, "content": text, "special": True, **flags}
            for number, text in special.items()
        ],
        **_PIECES,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [special[end], end],
            "cls": [special[start], start],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": special[end],
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": tokenizer.encoder,
            "merges": [" ".join(pair) for pair in merges],
        },
    }
