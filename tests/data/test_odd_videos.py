"""What becomes of odd videos, on files, addresses and shards alike."""

import re
from pathlib import Path

import numpy as np
import odd_videos
import pytest
import videos

from squeezetime_jax.data import packets, records, transforms, video
from squeezetime_jax.data.sources import is_video_file
from squeezetime_jax.data.video import Video, VideoError

PAGE = Path(__file__).parents[2] / "docs/data.md"
ODD = {odd.name: odd for odd in odd_videos.ODD}
READ = [name for name, odd in ODD.items() if not odd.outcome.startswith("refused")]
REFUSED = [name for name in ODD if name not in READ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> file; each is written when it is first needed."""

    class Files(dict):
        def __missing__(self, name):
            odd = ODD[name]
            self[name] = folder / f"{len(self)}{odd.suffix}"
            self[name].write_bytes(odd.make())
            return self[name]

    folder = tmp_path_factory.mktemp("odd")
    return Files()


@pytest.mark.parametrize("name", READ)
def test_file_address_and_shards_give_the_same_frames(files, name):
    file = files[name]
    assert is_video_file(file)
    with Video(file) as opened:
        frames = opened.frames(range(opened.num_frames))
        assert frames.shape[1:3] == (opened.info.height, opened.info.width)
        clip = transforms.TrainingClip(4, 2, 32, 32, "center", target_fps=30.0)
        assert clip.cut(opened, np.random.default_rng(0)).shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(np.stack(list(video.stream(file))), frames)
    arrived = [frame for _, frame in video.stream_address(file.as_uri(), timeout=5.0)]
    np.testing.assert_array_equal(np.stack(arrived), frames)
    for form in records.FORMS:
        with records.open_record(records.encode(file, form), name) as shard:
            found = shard.frames(range(shard.num_frames))
        assert len(found) == len(frames)
        even = transforms.resize(frames, *found.shape[1:3])
        assert np.abs(found.astype(int) - even).mean() < 20  # GIF's colours are few


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_everywhere_in_one_line(files, name):
    file, reason = files[name], ODD[name].reason
    for read in (video.probe, records.encode, lambda file: list(video.stream(file))):
        with pytest.raises(VideoError, match=rf"^{re.escape(str(file))}: .*({reason})") as caught:
            read(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match=re.escape(file.as_uri())) as caught:
        list(video.stream_address(file.as_uri(), timeout=5.0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("8K")])
def test_prepare_lifts_the_limit(files, name):
    stored = records.encode(files[name], "jpeg", 64, max_pixels=7680 * 4320)
    with records.open_record(stored, name) as shard:
        assert shard.frames([0, 1]).shape == (2, 64, 114, 3)


def test_a_turned_video_is_upright(files):
    found = video.decode(files["rotated by its header, as phones do"], [0])[0]
    upright = np.rot90(odd_videos.PICTURES[0])
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 20


def test_interlaced_video_has_no_combs(files):
    def combs(frames):
        grey = frames.astype(int).mean(-1)
        return np.abs(grey[:, :-2:2] - 2 * grey[:, 1:-1:2] + grey[:, 2::2]).mean()

    file = files["interlaced"]
    plain = videos.read_plainly(file.read_bytes())
    with Video(file) as opened:
        frames = opened.frames(range(opened.num_frames))
    assert len(frames) == len(plain) == 8
    assert combs(frames) < combs(plain) / 4
    changes = np.abs(frames.astype(int) - plain)  # one of the fields stays, but for its colours
    assert min(changes[:, k::2].mean() for k in (0, 1)) < 6


@pytest.mark.parametrize(("name", "white"), [("HDR, PQ", 0.58), ("HDR, HLG", 0.75)])
def test_hdr_is_tone_mapped(files, name, white):
    # `white` is the code of a sheet of paper (203 cd/m2, ITU-R BT.2408).
    file = files[name]
    found = video.decode(file, [1])[0][24].astype(int).mean(-1)
    plain = videos.read_plainly(file.read_bytes())[1][24].astype(int).mean(-1)
    assert (np.diff(found) >= -2).all()
    assert found[0] < 8
    assert 160 < found[round(white * 63)] < 235
    assert abs(found[12] - plain[12]) > 12  # codes are not brightness


def test_nested_folders_are_searched(tmp_path):
    from squeezetime_jax.evaluation.inputs import expand

    (tmp_path / "a/b").mkdir(parents=True)
    for suffix in (".mts", ".m2ts", ".ogv", ".gif", ".MP4"):
        (tmp_path / f"a/b/x{suffix}").touch()
    (tmp_path / "a/b/notes.txt").touch()
    assert len(list(expand([str(tmp_path)], ()))) == 5


def test_the_table_of_the_page_is_this_one():
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if "|" in line]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    start = cells.index(("a video that is", "becomes")) + 2
    assert cells[start : start + len(ODD)] == [(odd.name, odd.outcome) for odd in ODD.values()]
    assert f"{packets.MAX_PIXELS}" == "9437184"
