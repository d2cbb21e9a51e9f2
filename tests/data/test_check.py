import pytest
import videos

from squeezetime_jax import cli
from squeezetime_jax.data import prepare, records, sources, workers


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    frames = videos.moving_frames(60, 80, 96)
    good = videos.encode(frames, options={"bf": "0"}, container_options={"movflags": "faststart"})
    broken = bytearray(good)
    for place in range(len(good) // 2, len(good) // 2 + 900, 3):
        broken[place] ^= 0x55
    avi = videos.encode(frames, *videos.ENCODINGS["avi-mpeg4"])
    # Long enough for its length to tell: its header has no count of frames.
    slow = [100 * number for number in range(60)]
    webm = videos.encode(frames, *videos.ENCODINGS["webm-vp9"], pts=slow)
    files = {
        "good.mp4": good,
        "good.avi": avi,
        "good.webm": webm,
        "sound.webm": videos.encode(
            frames, "webm", "libvpx-vp9", videos.ENCODINGS["webm-vp9"][2], audio="libopus"
        ),
        "hidden.mp4": videos.encode(frames, pts=[40 * (n - 20) for n in range(60)]),
        "cut.webm": webm[: len(webm) * 6 // 10],
        "cut.avi": avi[: len(avi) * 6 // 10],
        "cut.mp4": good[: len(good) * 6 // 10],
        "headless.mp4": videos.encode(frames)[:3000],
        "broken.mp4": bytes(broken),
        "short.mp4": videos.encode(frames[:5]),
        "tiny.mp4": videos.encode(frames[:, :32, :48]),
        "text.mp4": b"404 not found",
        "empty.mp4": b"",
        "picture.mp4": records.encode_jpeg(frames[0]),
        "page.mp4": b"<!DOCTYPE html><html>404</html>",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


GOOD = ["good.mp4", "good.avi", "good.webm", "sound.webm", "hidden.mp4"]
REASONS = {
    "cut.webm": r"truncated: \d\.\d s of the [56]\.\d s that the header announces",
    "cut.avi": r"truncated: \d\d frames of the 60 that the header announces",
    "cut.mp4": r"truncated: \d\d frames of the 60 that the header announces",
    "headless.mp4": r"not readable as a video \(an MP4 file that is truncated or damaged\)",
    "broken.mp4": r"\d+ of 60 frames cannot be decoded without errors",
    "short.mp4": "only 5 frames; a clip has 16",
    "tiny.mp4": "frames of 48 x 32 pixels; a side is below 64",
    "text.mp4": "not readable as a video",
    "empty.mp4": r"not readable as a video \(the file is empty\)",
    "picture.mp4": r"not readable as a video \(it is a picture\)",
    "page.mp4": r"not readable as a video \(it is an HTML page\)",
    "none.mp4": "no such file",
}


def test_every_bad_video_is_named_with_its_reason(root):
    source = sources.FileSource(root, [(path, 0) for path in [*GOOD, *REASONS]])
    done = []
    found = dict(prepare.check(source, 2, done.append))
    assert sum(done) == len(source)
    assert list(found) == list(REASONS)
    for name, reason in REASONS.items():
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(found[name])


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(
        workers, "each", lambda f, items, n, **how: ((item, f(item)) for item in items)
    )


@pytest.mark.usefixtures("in_this_process")
def test_the_command_fails_if_a_video_is_bad(root, tmp_path, capsys):
    file = tmp_path / "val.txt"
    arguments = [str(file), "--root", str(root), "--workers", "1"]
    file.write_text("good.mp4 0\nshort.mp4 1\n")
    assert cli.main(["check", *arguments]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "short.mp4: only 5 frames; a clip has 16", "2 videos, 1 with problems",
    ]  # fmt: skip
    for good, text in (("good.txt", "good.mp4 0\n"), ("good.csv", "path,label\ngood.mp4,0\n")):
        assert cli.main(["check", *arguments, "--good", str(tmp_path / good)]) == 1
        assert (tmp_path / good).read_text() == text
        assert f"wrote {tmp_path / good}: 1 video, relative to" in capsys.readouterr().out
    file.write_text("good.mp4 0\n")
    assert cli.main(["check", *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == ["1 video, none with problems"]


@pytest.mark.usefixtures("in_this_process")
def test_the_command_takes_class_folders_and_shards(root, tmp_path, capsys):
    for name in ("good.mp4", "tiny.mp4"):
        (tmp_path / "train" / name[:4]).mkdir(parents=True)
        (tmp_path / "train" / name[:4] / name).write_bytes((root / name).read_bytes())
    expected = ["tiny/tiny.mp4: frames of 48 x 32 pixels; a side is below 64"]
    expected += ["2 videos, 1 with problems"]
    assert cli.main(["check", str(tmp_path / "train")]) == 1
    assert capsys.readouterr().out.splitlines() == expected
    for form in records.FORMS:
        out = str(tmp_path / form)
        assert cli.main(["prepare", str(tmp_path / "train"), "--out", out, "--form", form]) == 0
        assert capsys.readouterr().out.startswith("2 videos, ")
        assert sources.open_source(out, split="train").class_names == ("good", "tiny")
        assert cli.main(["check", out, "--split", "train"]) == 1
        assert capsys.readouterr().out.splitlines() == expected
    # From one set of shards to another, smaller one.
    again = str(tmp_path / "again")
    words = ["prepare", out, "--split", "train", "--out", again, "--short-side", "48"]
    assert cli.main([*words, "--form", "jpeg"]) == 0
    small = sources.open_source(again, split="train")
    assert [(small[k].name, small[k].label) for k in range(2)] == [
        ("good/good.mp4", 0), ("tiny/tiny.mp4", 1),
    ]  # fmt: skip
    with small[0].open() as video:
        assert video.frames([59]).shape == (1, 48, 58, 3)
