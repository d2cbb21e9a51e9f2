"""The stored index of a long file: built once, small, and never believed against the file."""

import numpy as np
import pytest
import videos

from squeezetime_jax.data import index_cache, packets, video
from squeezetime_jax.data.video import Video

FRAMES = 60


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Every file counts as long; caches are empty, those on disk in a folder of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(index_cache, "_IN_MEMORY_PACKETS", 1)
    monkeypatch.setattr(index_cache, "_ON_DISK_PACKETS", 1)
    monkeypatch.setattr(packets, "_open_files", packets._OpenFiles())
    index_cache.forget_memory()


@pytest.fixture
def demuxed(monkeypatch):
    """Counts the packets that are read."""
    counted = []

    def demux(container, stream, plain=packets.demux):
        for packet in plain(container, stream):
            counted.append(packet.size)
            yield packet

    monkeypatch.setattr(packets, "demux", demux)
    return counted


@pytest.fixture(scope="module", params=["mp4-h264", "mkv-vp9", "ts-h264", "avi-mpeg4", "flv-h264"])
def encoded(request):
    return videos.encode(videos.moving_frames(FRAMES), *videos.ENCODINGS[request.param])


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_the_second_opening_reads_the_packets_of_its_frames(
    tmp_path, monkeypatch, demuxed, encoded, where
):
    if where == "memory":
        monkeypatch.setattr(index_cache, "_ON_DISK_PACKETS", 1000)
    file = tmp_path / "film"
    file.write_bytes(encoded)
    expected = videos.read_plainly(encoded)
    with Video(file) as opened:
        times = opened.times
    assert len(demuxed) >= FRAMES
    if where == "disk":
        index_cache.forget_memory()
    demuxed.clear()
    with Video(file) as opened:
        assert opened.num_frames == FRAMES
        np.testing.assert_array_equal(opened.times, times)
        assert not demuxed
        np.testing.assert_array_equal(opened.frames([29, 31]), expected[[29, 31]])
    if not encoded.startswith((b"RIFF", b"FLV")):  # these seek to keyframes further off
        assert len(demuxed) < FRAMES / 2


def test_an_index_takes_few_bytes(tmp_path, encoded):
    with Video(encoded) as opened:
        assert opened.index_bytes <= 36 * FRAMES
    (tmp_path / "film").write_bytes(encoded)
    Video(tmp_path / "film").close()
    (stored,) = index_cache.folder().iterdir()
    assert stored.stat().st_size <= 32 * FRAMES + 200


def test_a_changed_file_has_another_index(tmp_path):
    file = tmp_path / "film.mp4"
    for count in (20, 30):
        file.write_bytes(videos.encode(videos.moving_frames(count)))
        with Video(file) as opened:
            assert opened.num_frames == count
            assert len(opened.frames([count - 1])) == 1


def damage_content(stored):
    stored.write_bytes(stored.read_bytes()[:-8] + b"\xff" * 8)


def cut_short(stored):
    stored.write_bytes(stored.read_bytes()[:-100])


def claim_a_huge_array(stored):
    np.save(stored, np.zeros((4, 1), np.int64))
    data = stored.read_bytes().replace(b"(4, 1)", b"(4, 99999999999)".ljust(6))
    stored.write_bytes(data)


def pickle_an_object(stored):
    np.save(stored, np.array([{"a": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage", [damage_content, cut_short, claim_a_huge_array, pickle_an_object]
)
def test_a_damaged_index_is_built_again(tmp_path, demuxed, damage):
    file = tmp_path / "film.mp4"
    file.write_bytes(videos.encode(videos.moving_frames(FRAMES)))
    Video(file).close()
    (stored,) = index_cache.folder().iterdir()
    damage(stored)
    index_cache.forget_memory()
    demuxed.clear()
    with Video(file) as opened:
        assert opened.num_frames == FRAMES
    assert len(demuxed) == FRAMES


def test_the_index_of_another_file_is_noticed_and_replaced(tmp_path):
    file, other = tmp_path / "film.mp4", tmp_path / "other.mp4"
    data = videos.encode(videos.moving_frames(FRAMES, seed=1), options=videos.B_FRAMES)
    file.write_bytes(data)
    other.write_bytes(videos.encode(videos.moving_frames(FRAMES + 9), "mp4", "mpeg4"))
    Video(file).close()
    (right,) = index_cache.folder().iterdir()
    Video(other).close()
    (wrong,) = set(index_cache.folder().iterdir()) - {right}
    right.write_bytes(wrong.read_bytes())
    index_cache.forget_memory()
    with Video(file) as opened:
        np.testing.assert_array_equal(
            opened.frames([3, 40, 59]), videos.read_plainly(data)[[3, 40, 59]]
        )
        assert opened.num_frames == FRAMES


def test_memory_and_disk_are_bounded(tmp_path, monkeypatch):
    data = videos.encode(videos.moving_frames(FRAMES))
    monkeypatch.setattr(index_cache, "_MEMORY_LIMIT", 3 * 36 * FRAMES)
    monkeypatch.setattr(index_cache, "_DISK_LIMIT", 3 * (32 * FRAMES + 200))
    for number in range(8):
        file = tmp_path / f"{number}.mp4"
        file.write_bytes(data)
        Video(file).close()
    assert index_cache._memory._size <= 3 * 36 * FRAMES
    assert 1 <= len(list(index_cache.folder().iterdir())) <= 3
    assert len(packets._open_files._files) <= packets._OPEN_FILES


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "caches").write_text("a file in the place of the folder")
    (tmp_path / "film.mp4").write_bytes(videos.encode(videos.moving_frames(5)))
    with Video(tmp_path / "film.mp4") as opened:
        assert opened.num_frames == 5


def test_a_short_file_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "_IN_MEMORY_PACKETS", 1000)
    monkeypatch.setattr(index_cache, "_ON_DISK_PACKETS", 1000)
    (tmp_path / "clip.mp4").write_bytes(videos.encode(videos.moving_frames(5)))
    assert video.decode(tmp_path / "clip.mp4", [4]).shape[0] == 1
    assert not index_cache.folder().exists()
    assert not packets._open_files._files
