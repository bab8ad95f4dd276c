"""A video is predicted frame by frame, and shown as a video."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="videos need the extra `video`")

from helpers.colour_run import colour_run
from helpers.drawn_video import FRAMES, draw_video, frame
from PIL import Image

from zsseg.pipeline.sheet.contact_sheet import SheetText, write_sheet
from zsseg.stages.data.video import frames_of
from zsseg.stages.errors import UserError
from zsseg.stages.evaluate.asked_names import with_text
from zsseg.stages.evaluate.colours import name_colours
from zsseg.stages.evaluate.predict import predict_files
from zsseg.stages.evaluate.prediction import Look
from zsseg.stages.evaluate.prediction_results import Predictions
from zsseg.stages.evaluate.predictor import Predictor


@pytest.fixture
def predictor(tiny_world: Path, tmp_path: Path) -> Predictor:
    run = colour_run(tmp_path / "run", tiny_world)
    return Predictor(run, with_text(run, run.spec.classes, [], run.text_CD))


def predict(predictor: Predictor, inputs: list[Path], out: Path, look: Look) -> Predictions:
    return predict_files(predictor, inputs, out, look=look, progress=lambda *_: None)


def test_a_video_and_an_image(predictor: Predictor, tmp_path: Path) -> None:
    walk, photo, out = draw_video(tmp_path / "walk.mp4"), tmp_path / "z.png", tmp_path / "out"
    Image.fromarray(frame(3)).save(photo)
    steps: list[tuple[int, int]] = []
    found = predict_files(
        predictor,
        [walk, photo],
        out,
        look=Look(confidence=True),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert not found.failures
    assert steps == [(step, FRAMES + 1) for step in range(1, FRAMES + 2)]
    labels = sorted(path.name for path in (out / "walk").iterdir())
    names = [f"frame_{number:06d}" for number in range(1, FRAMES + 1)]
    assert labels == sorted(f"{name}{end}.png" for name in names for end in ("", "_confidence"))
    assert {path.name for path in out.iterdir()} == {
        *("walk", "walk_overlay.mp4", "z.png", "z_overlay.png", "z_confidence.png"),
        *("classes.json", "results.jsonl"),
    }
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line.get("frame") for line in lines] == [*range(1, FRAMES + 1), None]
    assert [line["seconds"] for line in lines[:-1]] == [number / 10 for number in range(FRAMES)]
    for number, line in enumerate(lines[:-1]):
        assert line["file"] == str(walk)
        assert line["overlay"] == "walk_overlay.mp4"
        label_HW = np.asarray(Image.open(out / line["labels"]))
        assert (label_HW[-8 - 2 * number + 4 :] == 1).all()
        assert (label_HW[:12, :12] == 2).all()
    # The overlay: colours of the classes mixed with the frame's.
    shown = [each.image_HW3 for each in frames_of(out / "walk_overlay.mp4")]
    assert len(shown) == FRAMES
    colour = name_colours(predictor.asked.classes, predictor.run.spec)[1]
    expected = (colour + frame(0)[-2, 30].astype(float)) / 2
    np.testing.assert_allclose(shown[0][-3, 30], expected, atol=12)
    text, asked = SheetText("title", "about"), predictor.asked
    page = write_sheet(out, found, asked.classes, asked.palette, text=text).read_text()
    assert page.count("<video ") == page.count("<img ") == 1
    assert "12 frames" in page


def test_a_video_that_ends_early_keeps_what_there_is(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import av

    cut, out = tmp_path / "cut.mkv", tmp_path / "out"
    rng = np.random.default_rng(0)
    with av.open(str(cut), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(FRAMES):
            noise_HW3 = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise_HW3)))
        container.mux(stream.encode(None))
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    found = predict(predictor, [cut], out, Look())
    (failure,) = found.failures
    assert "ends early" in failure.reason
    assert "ends early" in caplog.text
    assert 1 <= len(found.results) < FRAMES - 2
    assert len(list(frames_of(out / "cut_overlay.mp4"))) == len(found.results)
    lines = (out / "results.jsonl").read_text().splitlines()
    assert "error" in json.loads(lines[-1])


def test_what_a_video_would_write_over_is_kept(predictor: Predictor, tmp_path: Path) -> None:
    walk, out = draw_video(tmp_path / "walk.mp4"), tmp_path / "out"
    (tmp_path / "more" / "walk").mkdir(parents=True)
    Image.fromarray(frame(0)).save(tmp_path / "more" / "walk" / "frame_000001.png")
    with pytest.raises(UserError, match="would both be written"):
        predict(predictor, [tmp_path / "more", walk], out, Look())
    (tmp_path / "other").mkdir()
    again = draw_video(tmp_path / "other" / "walk_overlay.mp4")
    with pytest.raises(UserError, match="would be written over"):
        predict(predictor, [walk, again], tmp_path / "other", Look())
    with pytest.raises(UserError, match="Leave --legend out"):
        predict(predictor, [walk], out, Look(legend=True))
    assert not out.exists()


def test_videos_of_a_folder_are_left_out_and_told(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_video(tmp_path / "photos" / "walk.mp4")
    Image.fromarray(frame(0)).save(tmp_path / "photos" / "a.png")
    assert len(predict(predictor, [tmp_path / "photos"], tmp_path / "out", Look()).results) == 1
    assert "give a video by its own path" in caplog.text
