"""predict, features and eval from the command line, and what they say to mistakes."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax import cli
from squeezetime_jax.data.embedded import motion

SIZES = ["--size", "32", "--frame-interval", "2", "--views", "1x1"]


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
    status = run("predict", *words, "--checkpoint", checkpoint, *SIZES, "--json", "--top", 3)
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
    assert run("predict", "-", "--checkpoint", checkpoint, *SIZES, "--top", 2) == 0
    captured = capsys.readouterr()
    title, first, second = captured.out.splitlines()
    assert title.startswith(f"{a_video}  (1 view, ")
    assert first.split("  ")[-1] in motion.CLASSES
    assert float(first.split()[0]) >= float(second.split()[0])
    assert "class names from the checkpoint" in captured.err


def test_predict_a_stream(
    checkpoint: Path, a_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", a_video.as_uri(), "--checkpoint", checkpoint, *SIZES, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 6  # 12 frames, a window of 7
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_predict_draws_pictures(checkpoint: Path, a_video: Path, tmp_path: Path) -> None:
    one, folder = tmp_path / "one.png", tmp_path / "many"
    common = ["--checkpoint", checkpoint, *SIZES]
    assert run("predict", a_video, *common, "--save", one) == 0
    assert one.stat().st_size > 10_000
    assert run("predict", a_video, a_video, *common, "--save", folder) == 0
    assert sorted(file.name for file in folder.iterdir()) == ["00004-2.png", "00004.png"]


def test_features(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.npz"
    words = ["features", videos / "test" / "growing", "--checkpoint", checkpoint, *SIZES]
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
        (["{video}", "--views", "10x2"], "views: found '10x2'"),
        (["{video}", "--checkpoint", "nowhere.pth"], "nowhere.pth"),
        (["{video}", "--checkpoint", "{notes}"], "notes.txt"),
        (["{video}", "--checkpoint", "{empty}"], "a directory without a checkpoint"),
        (["{video}", "--labels", "hmdb51"], "found 51 class names, but the network has 8"),
        (["{video}", "--labels", "nowhere.txt"], "nowhere.txt: not readable"),
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
    defaults = ["--checkpoint", checkpoint, *SIZES] if "--checkpoint" not in words else SIZES
    status = run("predict", *defaults, *words, "--json")
    captured = capsys.readouterr()
    assert status == 1
    if '"error"' in captured.out:  # found out while reading videos: a line of JSON
        assert message in json.loads(captured.out)["error"]
    else:
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith("squeezetime predict: ")
        assert message in captured.err


def test_eval_from_a_list(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "eval",
        "--videos",
        videos / "test.txt",
        "--checkpoint",
        run_folder(checkpoint, tmp_path),
    ]
    picture, scores = tmp_path / "confusion.png", tmp_path / "scores.npz"
    assert run(*words, "--views", "1x1", "--json", "--save", picture, "--scores", scores) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["videos"], result["skipped"], result["views"]) == (11, 0, "1x1")
    assert result["crop_size"] == 32
    with np.load(scores) as saved:
        right = saved["scores"].argmax(axis=1) == saved["labels"]
        assert right.mean() == pytest.approx(result["top1"])
        assert list(saved["class_names"]) == list(motion.CLASSES)
    assert picture.stat().st_size > 10_000

    assert run(*words, "--views", "1x1") == 0
    table = capsys.readouterr().out
    assert all(name in table for name in motion.CLASSES)
    assert f"top-1 {100 * result['top1']:.2f} %" in table


def run_folder(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as if a training run on the small videos had written it."""
    sizes = {"num_clips": 1, "num_crops": 1, "short_side": 32, "crop_size": 32}
    fields = {"evaluation": sizes, "data": {"frame_interval": 2}}
    (folder / "config.json").write_text(json.dumps(fields))
    copy = folder / "tiny.pth"
    copy.write_bytes(checkpoint.read_bytes())
    return copy


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
        (["--videos", "nowhere.txt"], "found neither file nor folder"),
        (["--videos", "{empty}"], "found no video in its 0 folders"),
        (["--videos", "{broken}"], "1 video cannot be read"),
        (["--videos", "{broken}", "--labels", "nowhere.txt"], "nowhere.txt: not readable"),
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
    status = run("eval", "--checkpoint", run_folder(checkpoint, tmp_path), *words)
    assert status == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("squeezetime eval: ")
    assert message in last


def test_the_authors_scores(
    golden: Path, reference: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    videos = reference("video")
    wanted = json.loads((golden / "video.json").read_text())["videos"]
    words = ["predict", videos, "--checkpoint", reference("golden/mmengine_tiny.pth")]
    assert run(*words, "--views", "10x3", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["arm_wrestling.mp4", "test.avi"]
    for line in lines:
        scores = wanted[f"{Path(line['path']).stem}.scores"]
        assert line["views"] == scores["num_views"] == 30
        order = np.argsort(scores["score"])[::-1]
        assert [entry["index"] for entry in line["top"]] == order.tolist()
        for entry in line["top"]:
            assert entry["score"] == pytest.approx(scores["score"][entry["index"]], abs=5e-3)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    run("doctor")
    out = capsys.readouterr().out
    for word in ("jax 0.", "cpu:0", "h264", "compiled programs", "matplotlib"):
        assert word in out
