"""Prompt templates and class embeddings."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from zsseg.stages.errors import UserError
from zsseg.stages.precompute.teacher.clip_teacher import ClipTeacher, load_teacher
from zsseg.stages.precompute.teacher.teacher_files import resolve_teacher
from zsseg.stages.precompute.teacher.text_embeddings import (
    Templates,
    embed_classes,
    encode_names,
    load_templates,
)


@pytest.fixture(scope="module")
def teacher(tiny_clip: str) -> ClipTeacher:
    return load_teacher(resolve_teacher(tiny_clip), device="cpu")


def test_imagenet80_are_the_prompts_of_open_clip() -> None:
    expected = tuple(template("cat") for template in OPENAI_IMAGENET_TEMPLATES)
    assert tuple(t.replace("{}", "cat") for t in load_templates("imagenet80")) == expected


@pytest.mark.parametrize(("name", "count"), [("single", 1), ("coco15", 15), ("imagenet80", 80)])
def test_templates_are_distinct_and_name_the_class_once(name: Templates, count: int) -> None:
    templates = load_templates(name)
    assert len(templates) == len(set(templates)) == count
    assert all(template.count("{}") == 1 for template in templates)


def test_embedding_is_the_normalised_mean_of_normalised_prompts(
    teacher: ClipTeacher, tiny_clip: str
) -> None:
    names = ["sky", "cardboard box"]
    model = open_clip.create_model(tiny_clip).eval()
    tokenize = open_clip.get_tokenizer(tiny_clip)
    expected = []
    for name in names:
        prompts = [template.format(name) for template in load_templates("coco15")]
        with torch.no_grad():
            rows = model.encode_text(tokenize(prompts)).double().numpy()
        mean = np.mean([row / np.sqrt((row**2).sum()) for row in rows], axis=0)
        expected.append(mean / np.sqrt((mean**2).sum()))
    text_CD = embed_classes(teacher, names, "coco15")
    assert text_CD.dtype == np.float32
    np.testing.assert_allclose(text_CD, expected, atol=1e-5)
    assert np.abs(text_CD[0] - text_CD[1]).max() > 1e-3


def test_several_names_are_averaged_as_templates_are(teacher: ClipTeacher, tiny_clip: str) -> None:
    model = open_clip.create_model(tiny_clip).eval()
    tokenize = open_clip.get_tokenizer(tiny_clip)
    units = []
    for name in ("car", "delivery van", "lorry"):
        with torch.no_grad():
            rows = model.encode_text(tokenize([f"a photo of a {name}."])).double().numpy()
        units.append(rows[0] / np.sqrt((rows[0] ** 2).sum()))
    mean = (units[0] + units[1] + units[2]) / 3
    text_CD = embed_classes(teacher, ["sky", "car| delivery van |lorry"], "single")
    np.testing.assert_allclose(text_CD[1], mean / np.sqrt((mean**2).sum()), atol=1e-5)
    every_CSD = embed_classes(teacher, ["sky", "car|delivery van|lorry"], "single", synonyms="max")
    sky = [text_CD[0]] * 3  # its only name, in the place of those that it does not have
    np.testing.assert_allclose(every_CSD, [sky, units], atol=1e-5)
    one = embed_classes(teacher, ["sky", "lorry"], "single", synonyms="max")
    np.testing.assert_allclose(one, [text_CD[0], units[2]], atol=1e-5)
    with pytest.raises(UserError, match=r"'Van' and 'van'.*equal prompts"):
        embed_classes(teacher, ["car|Van", "lorry|van"], "single")


def test_class_does_not_depend_on_its_neighbours(teacher: ClipTeacher) -> None:
    alone = embed_classes(teacher, ["ball"], "single")
    among = embed_classes(teacher, ["sky", "ball", "box"], "single")
    np.testing.assert_array_equal(alone[0], among[1])


def test_braces_in_a_name_are_only_a_name(teacher: ClipTeacher) -> None:
    assert np.isfinite(embed_classes(teacher, ["odd {0} name"], "single")).all()


def test_names_encoded_by_teacher_spec(teacher: ClipTeacher, tiny_clip: str) -> None:
    encoded = encode_names(resolve_teacher(tiny_clip), ["sky", "ball"], "single")
    expected = embed_classes(teacher, ["sky", "ball"], "single")
    np.testing.assert_allclose(encoded, expected, atol=1e-6)


def test_two_names_that_are_one_to_the_tokenizer(
    teacher: ClipTeacher, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(["a small red house beside a river"] * 12)
    with pytest.raises(UserError, match=r"(?s)tall'.* and .*low'.*cut off where"):
        embed_classes(teacher, ["sky", f"{long} tall", f"{long} low"], "single")
    with pytest.raises(UserError, match=r"'Boat' and 'boat'.*equal prompts"):
        embed_classes(teacher, ["Boat", "sky", "boat"], "coco15")
    caplog.clear()
    embed_classes(teacher, ["sky", long, "boat"], "single")
    (warning,) = caplog.messages
    assert "too long" in warning
    assert "small red house" in warning
