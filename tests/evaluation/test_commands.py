"""predict, features and eval from the command line, and what they say to mistakes."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from small import SAMPLING

import squeezetime_jax as st
from squeezetime_jax import SqueezeTime, cli
from squeezetime_jax.data import transforms
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.video import Video
from squeezetime_jax.evaluation import explain, pictures
from squeezetime_jax.evaluation.views import Sampling

ONE_VIEW = ["--views", "1x1"]


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture
def a_video(videos: Path) -> Path:
    return videos / "test" / "growing" / "00004.mp4"


def test_predict_as_json(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    words = [videos / "test" / "moving_*", "missing.mp4", tmp_path / "broken.mp4"]
    status = run("predict", *words, "--checkpoint", checkpoint, *ONE_VIEW, "--json", "--top", 3)
    assert status == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 7 + 2
    for line in lines[:7]:
        assert set(line) == {"path", "top", "views", "seconds"}
        scores = [entry["score"] for entry in line["top"]]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert all(motion.CLASSES[e["index"]] == e["label"] for e in line["top"])
    assert [set(line) for line in lines[7:]] == [{"path", "error"}] * 2
    assert "missing.mp4: no such file" in lines[7]["error"]


def test_predict_for_people_from_a_list_on_standard_input(
    checkpoint: Path,
    a_video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{a_video}\n"))
    assert run("predict", "-", "--checkpoint", checkpoint, *ONE_VIEW, "--top", 2) == 0
    captured = capsys.readouterr()
    title, first, second = captured.out.splitlines()
    assert title.startswith(f"{a_video}  (1 view, ")
    assert first.split("  ")[-1] in motion.CLASSES
    assert float(first.split()[0]) >= float(second.split()[0])
    assert "class names from the checkpoint" in captured.err


def test_predict_a_stream(
    checkpoint: Path, a_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", a_video.as_uri(), "--checkpoint", checkpoint, *ONE_VIEW, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 6  # 12 frames, a window of 7
    in_time = ("--json", "--fps", 30)
    assert run("predict", a_video.as_uri(), "--checkpoint", checkpoint, *ONE_VIEW, *in_time) == 0
    # 12 frames at 25 a second are 14 at 30; a frame that fills two places is scored once.
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_predict_draws_pictures(
    model: SqueezeTime,
    checkpoint: Path,
    a_video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def save(figure: Figure, path: Path) -> Path:
        drawn.append((figure, path))
        return path

    monkeypatch.setattr(pictures, "save_figure", save)
    common = ["--checkpoint", checkpoint, *ONE_VIEW]
    assert run("predict", a_video, *common, "--save", tmp_path / "one.png") == 0
    assert run("predict", a_video, a_video, *common, "--save", tmp_path / "many") == 0
    paths = [path for _, path in drawn]
    assert paths == [tmp_path / n for n in ("one.png", "many/00004.png", "many/00004-2.png")]

    # The figure shows the clip that was scored, its best class and what the frames add to it.
    figure = drawn[0][0]
    with Video(a_video) as video:
        (clip,) = transforms.views(video, SAMPLING.protocol("1x1", 4))
        seconds = SAMPLING.protocol("1x1", 4).indices(video.num_frames)[0] / video.info.fps
    *frames, scores, importance = figure.axes
    np.testing.assert_array_equal([axes.images[0].get_array() for axes in frames], clip)
    best = int(st.predict(model, a_video, views="1x1").argmax())
    assert scores.get_yticklabels()[0].get_text() == motion.CLASSES[best]
    bars = importance.patches
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], seconds)
    found = explain.frame_importance(model, clip, best)
    np.testing.assert_allclose([bar.get_height() for bar in bars], found, rtol=1e-4, atol=1e-7)


def test_a_checkpoint_is_predicted_by_the_package_as_by_the_command(
    model: SqueezeTime,
    checkpoint: Path,
    a_video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("convert", checkpoint, tmp_path / "converted") == 0  # what is expected travels on
    capsys.readouterr()
    assert run("predict", a_video, "--checkpoint", tmp_path / "converted", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    scores = st.predict(st.load(tmp_path / "converted"), a_video)
    np.testing.assert_array_equal(scores, st.predict(model, a_video, sampling=SAMPLING))
    for entry in json.loads(line)["top"]:
        assert entry["score"] == pytest.approx(float(scores[entry["index"]]), abs=1e-6)
    other = Sampling(one_crop_side=32, crop_size=32, frame_interval=1)
    assert np.abs(st.predict(st.load(checkpoint), a_video, sampling=other) - scores).max() > 1e-3


def test_features(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.npz"
    words = ["features", videos / "test" / "growing", "--checkpoint", checkpoint, *ONE_VIEW]
    assert run(*words, "--out", out) == 0
    with np.load(out) as saved:
        assert saved["features"].shape == (1, 64)
        assert saved["features"].dtype == np.float32
        assert saved["paths"][0].endswith("00004.mp4")
    assert "features (1, 64)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file"),
        (["{empty}"], "no video found in this folder"),
        (["{empty}/*.mp4"], "no file matches this pattern"),
        (["{notes}"], "notes.txt: not readable as a video"),
        (["{video}", "--views", "10x2"], "got '10x2'"),
        (["{video}", "--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["{video}", "--checkpoint", "{notes}"], "notes.txt"),
        (["{video}", "--checkpoint", "{empty}"], "a directory without a checkpoint"),
        (["{video}", "--labels", "hmdb51"], "found 51 class names, but the network has 8"),
        (["{video}", "--labels", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["{video}", "{video}", "--save", "a.png"], "one picture for several videos"),
        (["camera:9"], "camera 9 not found"),
        (["camera", "{video}"], "a stream is predicted by itself"),
        (["http://127.0.0.1:9/a.mp4"], "cannot be read"),
        (["{video}", "--size", "16"], "at least 32"),
    ],
)
def test_mistakes_are_one_line_and_status_1(
    words: list[str],
    message: str,
    checkpoint: Path,
    a_video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("some notes\n")
    places = {"empty": tmp_path / "empty", "notes": tmp_path / "notes.txt", "video": a_video}
    words = [word.format(**places) for word in words]
    defaults = ["--checkpoint", checkpoint, *ONE_VIEW] if "--checkpoint" not in words else ONE_VIEW
    status = run("predict", *defaults, *words, "--json")
    captured = capsys.readouterr()
    assert status == 1
    if '"error"' in captured.out:  # found out while reading videos: a line of JSON
        assert message in json.loads(captured.out)["error"]
    else:
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith("squeezetime predict: ")
        assert message in captured.err


def test_exported_files_are_refused_where_they_cannot_serve(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("eval --videos", "features --out x.npz"):
        assert run(*command.split(), videos, "--checkpoint", "net-int8.tflite") == 1
        assert "net-int8.tflite: an exported file; " in capsys.readouterr().err


def test_eval_from_a_list(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--videos", videos / "test.txt", "--checkpoint", checkpoint]
    words += ["--batch-size", 4]
    picture, scores = tmp_path / "confusion.svg", tmp_path / "scores.npz"
    assert run(*words, "--views", "1x1", "--json", "--save", picture, "--scores", scores) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["videos"], result["skipped"], result["views"]) == (11, 0, "1x1")
    assert result["crop_size"] == 32
    with np.load(scores) as saved:
        right = saved["scores"].argmax(axis=1) == saved["labels"]
        assert right.mean() == pytest.approx(result["top1"])
        assert list(saved["class_names"]) == list(motion.CLASSES)
    svg = picture.read_text()
    assert all(f"<!-- {name} -->" in svg for name in motion.CLASSES)

    assert run(*words, "--views", "1x1") == 0
    table = capsys.readouterr().out
    assert all(name in table for name in motion.CLASSES)
    assert f"top-1 {100 * result['top1']:.2f} %" in table


CONFIG = """
from squeezetime_jax.training import config as experiment

def get_config(variant=""):
    config = experiment.default()
    config.data.train = config.data.test = {test!r}
    config.data.labels = {labels!r}
    config.data.frame_interval = 2
    config.evaluation.update(short_side=32, crop_size=32)
    config.published.update(views="10x3", top1=0.716, top5=0.893, source="paper, Table 7")
    return config
"""


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections' own
def test_eval_from_a_config_is_compared_with_what_is_published(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.py"
    labels = str(videos / "label_map.txt")
    config.write_text(CONFIG.format(test=str(videos / "test.txt"), labels=labels))
    assert run("eval", "--config", config, "--checkpoint", checkpoint) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "paper, Table 7: top-1 71.60 %   top-5 89.30 %; here -" in last
    assert "(published with views 10x3)" in last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no videos given"),
        (["--videos", "nowhere.txt"], "nowhere.txt: not found; expected an annotation list"),
        (["--videos", "{empty}"], "no videos in its class folders"),
        (["--videos", "{broken}"], "1 video cannot be read"),
        (["--videos", "{broken}", "--labels", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--config", "nowhere.py"], "config: no file nowhere.py"),
    ],
)
def test_mistakes_of_an_evaluation(
    words: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "broken.txt").write_text("broken.mp4 0\n")
    places = {"empty": tmp_path / "empty", "broken": tmp_path / "broken.txt"}
    words = [word.format(**places) for word in words]
    status = run("eval", "--checkpoint", checkpoint, *ONE_VIEW, "--batch-size", 2, *words)
    assert status == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("squeezetime eval: ")
    assert message in last


def test_an_evaluation_of_a_part_writes_its_scores_and_prints_no_accuracy(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    path, label = (videos / "test.txt").read_text().splitlines()[0].split()
    (tmp_path / "list.txt").write_text(f"broken.mp4 0\n{videos / path} {label}\n")
    words = ["--videos", tmp_path / "list.txt", "--scores", tmp_path / "scores.npz"]
    assert run("eval", "--checkpoint", checkpoint, *ONE_VIEW, "--batch-size", 2, *words) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 video cannot be read" in printed.err.splitlines()[-1]
    with np.load(tmp_path / "scores.npz") as saved:
        assert list(saved["paths"]) == [str(videos / path)]


def test_the_authors_scores(
    golden: Path, reference: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    videos = reference("video")
    expected = json.loads((golden / "video.json").read_text())["videos"]
    words = ["predict", videos, "--checkpoint", reference("golden/mmengine_tiny.pth")]
    assert run(*words, "--views", "10x3", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["arm_wrestling.mp4", "test.avi"]
    for line in lines:
        scores = expected[f"{Path(line['path']).stem}.scores"]
        assert line["views"] == scores["num_views"] == 30
        order = np.argsort(scores["score"])[::-1]
        assert [entry["index"] for entry in line["top"]] == order.tolist()
        for entry in line["top"]:
            assert entry["score"] == pytest.approx(scores["score"][entry["index"]], abs=5e-3)
