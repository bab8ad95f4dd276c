"""A text tower gives open_clip's embeddings from the ids of its own tokenizer file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from zsseg.stages.errors import UserError
from zsseg.stages.export.text_tower import export_text_tower
from zsseg.stages.precompute.teacher.open_teacher import open_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher

PROMPTS = ["a photo of a car.", "It's  2 TRAMS,\tö", "street" * 60, "word " * 90, "a"]


def test_embeddings_and_ids_are_open_clip_s(tiny_clip: str, tmp_path: Path) -> None:
    tokenizers: Any = pytest.importorskip("tokenizers")
    tower, file = export_text_tower(tiny_clip, tmp_path)
    teacher = open_teacher(resolve_teacher(tiny_clip), device="cpu")
    assert teacher.tokenizer is not None
    expected_nL = teacher.tokenizer(PROMPTS).numpy()
    encoded = tokenizers.Tokenizer.from_file(str(file)).encode_batch(PROMPTS)
    token_nL = np.array([each.ids for each in encoded])
    np.testing.assert_array_equal(token_nL, expected_nL)
    text_nD = teacher.text(PROMPTS)
    text_nD /= np.linalg.norm(text_nD, axis=1, keepdims=True)
    session = onnxruntime.InferenceSession(tower)
    for few in (slice(0, 1), slice(None)):
        (found,) = session.run(None, {"tokens": token_nL[few]})
        np.testing.assert_allclose(found, text_nD[few], atol=1e-4)


def test_what_is_there_stays(tiny_clip: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("mine")
    with pytest.raises(UserError, match="add --force"):
        export_text_tower(tiny_clip, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
