import doctest
import io
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from small import SAMPLING

import squeezetime_jax as st
from squeezetime_jax.data.embedded import motion, scenes
from squeezetime_jax.data.video import VideoError
from squeezetime_jax.data.video import stream as decoded
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import answers, inputs, predict, stream
from squeezetime_jax.evaluation.views import Scorer


def test_the_package_predicts(model: st.SqueezeTime, videos: Path) -> None:
    path = videos / "test" / "moving_right" / "00000.mp4"
    scores = st.predict(model, path, views="2x3", sampling=SAMPLING)
    assert scores.shape == (8,)
    assert scores.sum() == pytest.approx(1, abs=1e-5)
    again = st.predict(model, path.read_bytes(), views="2x3", sampling=SAMPLING)
    np.testing.assert_array_equal(scores, again)


def test_the_example_in_the_docstring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(predict)
    assert result.attempted >= 8
    assert result.failed == 0


def test_the_best_come_first_and_equals_by_their_number() -> None:
    scores = np.array([0.1, 0.4, 0.1, 0.4], np.float32)
    best = answers.top(scores, ["a", "b", "c", "d"], 3)
    assert [(entry["index"], entry["label"]) for entry in best] == [(1, "b"), (3, "d"), (0, "a")]
    assert answers.top(scores, None, 1)[0]["label"] is None


def test_a_video_that_cannot_be_read_does_not_stop_the_others(
    model: st.SqueezeTime, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    good = str(videos / "test" / "moving_up" / "00003.mp4")
    paths = [good, str(tmp_path / "broken.mp4"), good]
    readings = predict.read_ahead(paths, SAMPLING.protocol("1x1", 4))
    found = list(predict.predict_all(Scorer(model), readings))
    assert [prediction.reading.path for prediction in found] == paths
    assert [prediction.scores is None for prediction in found] == [False, True, False]
    assert "broken.mp4: not readable as a video" in found[1].reading.error


def test_a_path_that_arrives_is_answered_before_the_next_one(
    model: st.SqueezeTime, videos: Path
) -> None:
    answered = threading.Event()

    def paths():
        yield str(videos / "test" / "moving_up" / "00003.mp4")
        assert answered.wait(60)

    for reading in predict.read_ahead(paths(), SAMPLING.protocol("1x1", 4)):
        assert reading.views is not None
        answered.set()


def test_words_become_paths(videos: Path, tmp_path: Path) -> None:
    folder = videos / "test" / "moving_up"
    assert list(inputs.expand([str(folder)], [])) == [str(folder / "00003.mp4")]
    assert len(list(inputs.expand([str(videos / "test")], []))) == 11
    pattern = str(videos / "test" / "moving_*" / "*.mp4")
    assert len(list(inputs.expand([pattern], []))) == 7
    assert list(inputs.expand(["-", "a.mp4"], io.StringIO("x y.mp4\n\n"))) == ["x y.mp4", "a.mp4"]
    odd = tmp_path / "a[1].mp4"  # a name that looks like a pattern
    odd.touch()
    assert list(inputs.expand([str(odd)], [])) == [str(odd)]


def test_a_folder_or_pattern_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="no video found in this folder"):
        list(inputs.expand([str(tmp_path)], []))
    with pytest.raises(UserError, match="no file matches this pattern"):
        list(inputs.expand([f"{tmp_path}/*.mp4"], []))


def test_streams_are_told_from_files() -> None:
    assert all(
        map(inputs.is_stream, ["camera", "camera:1", "/dev/video0", "rtsp://a/b", "file:///a"])
    )
    assert not any(map(inputs.is_stream, ["-", "camera.mp4", "C:\\a.mp4", "a://", "/dev/null"]))


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    frames, _ = motion.motion_video(
        seed=0, split="test", index=0, size=32, num_frames=20, difficulty=0.3
    )
    scenes.encode(tmp_path / "long.mp4", frames)
    return tmp_path / "long.mp4"


def test_a_stream_is_scored_window_by_window(model: st.SqueezeTime, long_video: Path) -> None:
    protocol, scorer = SAMPLING.protocol("1x1", 4), Scorer(model)
    found = list(stream.recognise(scorer, long_video.as_uri(), protocol))
    # A window of 7 frames, moved on by 1.
    assert [moment.frame for moment in found] == list(range(6, 20))
    assert found[0].seconds == pytest.approx(6 / 25)
    frames = np.stack(list(decoded(long_video)))
    windows = [frames[end - 6 : end + 1 : 2] for end in (6, 7)]
    first, second = (np.asarray(scorer.scores(w[None, None])[0]) for w in windows)
    np.testing.assert_allclose(found[0].scores, first, atol=1e-6)
    np.testing.assert_allclose(found[1].scores, (first + second) / 2, atol=1e-6)


def test_a_stream_over_the_network(model: st.SqueezeTime, long_video: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(long_video.parent))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = list(
            stream.recognise(Scorer(model), f"{address}/long.mp4", SAMPLING.protocol("1x1", 4))
        )
        assert len(found) == 14
        with pytest.raises(VideoError, match=r"nothing\.mp4: cannot be read"):
            next(
                stream.recognise(
                    Scorer(model), f"{address}/nothing.mp4", SAMPLING.protocol("1x1", 4)
                )
            )
        server.shutdown()


def test_a_stream_too_short_for_a_clip(model: st.SqueezeTime, tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    scenes.encode(path, np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(VideoError, match="ended after 3 frames, fewer than the 7"):
        list(stream.recognise(Scorer(model), path.as_uri(), SAMPLING.protocol("1x1", 4)))


@pytest.mark.skipif(os.path.exists("/dev/video9"), reason="this machine has ten cameras")
def test_no_camera_is_one_line(model: st.SqueezeTime, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VideoError, match="camera 9 not found"):
        next(stream.recognise(Scorer(model), "camera:9", SAMPLING.protocol("1x1", 4)))
    assert capfd.readouterr().err == ""
