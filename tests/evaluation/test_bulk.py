"""Many videos and long ones: shares, results that are continued, windows, features, timelines."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import SAMPLING

import squeezetime_jax as st
from squeezetime_jax import cli
from squeezetime_jax.data import transforms, video
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import bulk, predict, reading
from squeezetime_jax.evaluation.reading import Step, Windows
from squeezetime_jax.evaluation.views import Scorer

PROTOCOL = SAMPLING.protocol("1x1", 4)
ONE = ("--views", "1x1", "--workers", "0")


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def film(videos: Path) -> Path:
    """The 11 test videos one after the other: 132 frames at 25 a second."""
    from squeezetime_jax.data.embedded import scenes

    file = videos.parent / "film.mp4"
    clips = [video.decode(path, range(12)) for path in sorted((videos / "test").rglob("*.mp4"))]
    scenes.encode(file, np.concatenate(clips))
    return file


def test_shares_are_disjoint_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{number}.mp4" for number in range(100)]
    parts = [bulk.share(paths, f"{number}/7") for number in range(1, 8)]
    assert sorted(path for part in parts for path in part) == sorted(paths)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_NTASKS", "7")
    assert bulk.share(paths, "auto") == parts[2]
    assert bulk.name_of_share(Path("a/s.jsonl"), "3/16").name == "s-00003-of-00016.jsonl"
    for wrong in ("0/3", "4/3", "1", "a/b", "-1/2"):
        with pytest.raises(UserError, match=r"--shard .*: expected I/N"):
            bulk.parse_shard(wrong)


def test_a_full_batch_at_once_and_the_order_is_kept() -> None:
    sizes = []

    def compute(views: np.ndarray) -> np.ndarray:
        sizes.append(len(views))
        return views.reshape(len(views), -1)[:, :1].astype(float)

    views = [np.full((1, 1, 1, 1, 3), number, np.uint8) for number in range(7)]
    rows = [(n, None if n in (1, 4) else v) for n, v in enumerate(views)]
    found = list(reading.in_batches(rows, compute, 3))
    assert [key for key, _ in found] == list(range(7))
    assert [None if output is None else output[0] for _, output in found] == [
        0,
        None,
        2,
        3,
        None,
        5,
        6,
    ]
    assert sizes == [3, 3]  # the last batch is filled, so that no other program is compiled
    assert len(list(reading.in_batches(rows[:1], compute, 3))) == 1
    assert sizes[-1] == 1


def test_results_are_appended_and_continued(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "scores.jsonl"
    words = ["predict", videos / "test", tmp_path / "broken.mp4", "--checkpoint", checkpoint, *ONE]
    assert run(*words, "--out", out) == 1
    whole = out.read_text().splitlines()
    assert len(whole) == 12
    assert sum("error" in json.loads(line) for line in whole) == 1
    # Stopped while a line was written: the rest is done, and nothing twice.
    out.write_text("\n".join(whole[:5]) + "\n" + whole[5][:20])
    assert run(*words, "--out", out) == 1
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["path"] for line in again] == [json.loads(line)["path"] for line in whole]
    capsys.readouterr()
    assert run(*words, "--out", out, "--top", 3) == 1
    assert "begun with top 5, now 3; choose another --out" in capsys.readouterr().err


def test_other_processes_read_the_same_views(videos: Path) -> None:
    paths = [str(path) for path in sorted((videos / "test").rglob("*.mp4"))][:3]
    paths.append("missing.mp4")
    here = list(reading.read_videos(paths, PROTOCOL, 0))
    there = list(reading.read_videos(paths, PROTOCOL, 1))
    assert [each.path for each in there] == paths
    assert [each.error for each in here] == [each.error for each in there]
    for one, other in zip(here[:3], there, strict=False):
        np.testing.assert_array_equal(one.views, other.views)


def test_reading_processes_do_without_jax() -> None:
    code = "import squeezetime_jax.evaluation.reading, sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_decoder_that_hangs_is_given_up(
    model: st.SqueezeTime, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str, *how: object, plain: object = reading._read) -> reading.Reading:
        if path == "hangs.mp4":
            import time

            time.sleep(20)
        return plain(path, *how)  # type: ignore[operator]

    monkeypatch.setattr(reading, "_read", read)
    monkeypatch.setattr(reading, "_SECONDS", 2.0)
    good = str(next((videos / "test").rglob("*.mp4")))
    found = list(reading.read_ahead(["hangs.mp4", good], PROTOCOL))
    assert found[0].error == "hangs.mp4: not done after 2 seconds; replace or remove it"
    assert found[1].views is not None


@pytest.mark.parametrize("fps", [None, 30.0])
def test_windows_are_the_clips_at_their_times(film: Path, fps: float | None) -> None:
    protocol = predict.dataclasses.replace(PROTOCOL, target_fps=fps)
    parts = list(reading.read_windows([str(film)], protocol, Step(0.2), 0))
    assert all(isinstance(part, Windows) for part in parts)
    assert sum(len(part.places) for part in parts) == parts[0].total
    assert len(parts) > 1
    seconds = np.concatenate([part.seconds for part in parts])
    np.testing.assert_allclose(seconds, 0.2 * np.arange(len(seconds)), atol=0.02)
    rate = fps or 25.0
    last = seconds[-1] + 6 / rate  # a window spans six frames
    assert 132 / 25 - 0.2 - 2 / rate < last <= 132 / 25
    with video.Video(film) as opened:
        source = transforms.at_rate(opened, fps)
        for part in parts:
            start = round(float(part.seconds[-1]) * rate)
            expected = source.frames(start + 2 * np.arange(4), short_side=32)
            np.testing.assert_array_equal(part.frames[part.places[-1]], expected)


def test_a_short_video_has_one_window(videos: Path) -> None:
    path = str(next((videos / "test").rglob("*.mp4")))
    protocol = predict.dataclasses.replace(PROTOCOL, frame_interval=50)
    (part,) = reading.read_windows([path], protocol, Step(1.0), 0)
    assert isinstance(part, Windows)
    assert (part.total, len(part.frames)) == (1, 2)


def test_several_videos_and_errors_take_turns(film: Path, videos: Path) -> None:
    short = str(next((videos / "test").rglob("*.mp4")))
    paths = [str(film), "missing.mp4", short, str(film)]
    counts: dict[str, int] = {}
    for part in reading.read_windows(paths, PROTOCOL, Step(2.0, in_frames=True), 0):
        counts[part.path] = counts.get(part.path, 0) + (
            len(part.places) if isinstance(part, Windows) else 100
        )
    assert counts == {str(film): 2 * 63, "missing.mp4": 100, short: 3}


def test_steps() -> None:
    assert Step.parse("0.5") == Step(0.5)
    assert Step.parse("8f") == Step(8.0, in_frames=True)
    for wrong in ("0", "-1", "f", "0.5f", "nan", "1e9", "x"):
        with pytest.raises(UserError, match=r"--every .*: expected seconds"):
            Step.parse(wrong)


def test_features_of_windows(
    checkpoint: Path, film: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", film, videos / "test/growing", "--checkpoint", checkpoint, "--workers", 0]
    out = tmp_path / "features"
    assert run(*words, "--every", "16f", "--out", out) == 0
    assert "feat_stride 16 and num_frames 7 (ActionFormer)" in capsys.readouterr().out
    found = np.load(out / "film.npy")
    scorer = Scorer(st.load(checkpoint))
    assert (found.dtype, len(found)) == (np.float32, 8)
    with video.Video(film) as opened:
        clip = opened.frames(16 * 3 + 2 * np.arange(4), short_side=32)
    np.testing.assert_allclose(found[3], scorer.features(clip[None, None])[0], atol=1e-5)
    others = sorted(file.name for file in out.glob("*.npy"))
    assert len(others) == 1 + len(list((videos / "test/growing").glob("*.mp4")))
    (out / "film.npy").write_bytes(b"left alone")
    (out / others[0]).unlink()
    assert run(*words, "--every", "16f", "--out", out) == 0
    assert (out / "film.npy").read_bytes() == b"left alone"
    assert np.load(out / others[0]).shape[1] == found.shape[1]
    assert run(*words, "--every", "8f", "--out", out) == 1
    assert "begun with every '16f', now '8f'" in capsys.readouterr().err


def test_two_videos_of_one_name_are_refused(
    checkpoint: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    words = ["features", film, tmp_path / "film.mp4", "--checkpoint", checkpoint]
    assert run(*words, "--every", "1", "--out", tmp_path / "out") == 1
    assert "features of both would be film.npy" in capsys.readouterr().err


@pytest.fixture
def timeline_files(
    checkpoint: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[Path, list[str]]:
    words = ["predict", film, "--checkpoint", checkpoint, "--every", "0.32", "--workers", 0]
    assert run(*words, "--save", tmp_path / "out", "--top", 2) == 0
    return tmp_path / "out", capsys.readouterr().out.splitlines()


def test_a_timeline_as_numbers_picture_and_video(timeline_files: tuple[Path, list[str]]) -> None:
    out, printed = timeline_files
    windows = json.loads((out / "film.json").read_text())["windows"]
    assert len(windows) == len(printed) == 16
    rows = list(csv.DictReader((out / "film.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(windows)
    for number, window in enumerate(windows):
        assert window["start"] == pytest.approx(0.32 * number, abs=0.02)
        assert window["end"] - window["start"] == pytest.approx(0.24, abs=2e-3)
        best, second = (entry["score"] for entry in window["top"])
        assert 1 >= best >= second
        row = rows[2 * number]
        assert (row["label"], float(row["start"])) == (window["top"][0]["label"], window["start"])
    with video.Video(out / "film.mp4") as drawn:
        assert (drawn.num_frames, drawn.info.height) == (132, 240)
        assert drawn.times[-1] == pytest.approx(131 / 25, abs=0.01)
        bottom = drawn.frames([10, 120])[:, -2].astype(int)
        blue = (bottom[..., 2] - bottom[..., 0] > 100).mean(axis=1)  # the line of the time
    assert blue[0] == pytest.approx(10 / 131, abs=0.05)
    assert blue[1] == pytest.approx(120 / 131, abs=0.05)
    assert (out / "film.png").stat().st_size > 10_000


def test_a_timeline_never_replaces_its_video(
    checkpoint: Path, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = film.read_bytes()
    words = ["predict", film, "--checkpoint", checkpoint, "--every", "2", "--workers", 0]
    assert run(*words, "--save", film) == 1
    assert "is the video itself" in capsys.readouterr().err
    assert film.read_bytes() == before
