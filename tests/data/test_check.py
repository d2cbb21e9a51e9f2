import pytest
import videos

from squeezetime_jax import cli
from squeezetime_jax.data import check, workers


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
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


GOOD = ["good.mp4", "good.avi", "good.webm", "sound.webm", "hidden.mp4"]
REASONS = {
    "cut.webm": r"truncated: \d\.\d s, [56]\.\d s promised by the header",
    "cut.avi": r"truncated: \d\d frames, 60 promised by the header",
    "cut.mp4": r"truncated: \d\d frames, 60 promised by the header",
    "headless.mp4": "not readable as a video",
    "broken.mp4": r"\d+ of 60 frames cannot be decoded without errors",
    "short.mp4": "only 5 frames, a clip takes 16",
    "tiny.mp4": "frames of 48 x 32, a side under 64 pixels",
    "text.mp4": "not readable as a video",
    "none.mp4": "no such file",
}


def test_every_odd_video_is_named_with_its_reason(root):
    paths = [*GOOD, *REASONS]
    done = []
    found = dict(check.check(paths, root, 2, done.append))
    assert sum(done) == len(paths)
    assert list(found) == list(REASONS)
    for name, reason in REASONS.items():
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(found[name])


def test_the_command_fails_where_a_video_is_odd(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "each", lambda f, items, n: ((item, f(item)) for item in items))
    file = tmp_path / "val.txt"
    arguments = [str(file), "--root", str(root), "--workers", "1"]
    file.write_text("good.mp4 0\nshort.mp4 1\n")
    assert cli.main(["check", *arguments]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "short.mp4: only 5 frames, a clip takes 16", "2 videos, 1 odd",
    ]  # fmt: skip
    file.write_text("good.mp4 0\n")
    assert cli.main(["check", *arguments]) == 0
