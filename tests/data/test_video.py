import inspect
import itertools
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import videos

from squeezetime_jax.data import packets, transforms, video
from squeezetime_jax.data.video import FrameSequence, Video, VideoError

NUM_FRAMES = 50


@pytest.fixture(scope="module")
def pictures():
    return videos.moving_frames(NUM_FRAMES)


@pytest.fixture(scope="module", params=videos.ENCODINGS)
def encoded(request, pictures):
    return videos.encode(pictures, *videos.ENCODINGS[request.param])


@pytest.fixture(params=["kept", "read again"])
def packet_memory(request, monkeypatch):
    """Small files' packets stay in memory, large files' are sought and read again."""
    if request.param == "read again":
        monkeypatch.setattr(packets, "_KEEP_BYTES", 0)


@pytest.mark.usefixtures("packet_memory")
def test_frame_k_by_seeking_is_frame_k_from_the_start(encoded):
    expected = videos.read_plainly(encoded)
    assert len(expected) == NUM_FRAMES
    rng = np.random.default_rng(0)
    with Video(encoded) as opened:
        assert opened.num_frames == NUM_FRAMES
        for size in (1, 1, 1, 1, 1, 1, 4, 16, 60):
            indices = rng.integers(NUM_FRAMES, size=size)
            np.testing.assert_array_equal(opened.frames(indices), expected[indices])
        np.testing.assert_array_equal(opened.frames([49, 0, 49]), expected[[49, 0, 49]])
    np.testing.assert_array_equal(np.stack(list(video.stream(encoded))), expected)


@pytest.mark.parametrize("name", ["mp4-h264", "webm-vp9", "mkv-av1"])
def test_more_threads_decode_the_same(pictures, name):
    data = videos.encode(pictures, *videos.ENCODINGS[name])
    expected = videos.read_plainly(data)[[45, 3, 20]]
    with Video(data, threads=3) as opened:
        np.testing.assert_array_equal(opened.frames([45, 3, 20]), expected)
    np.testing.assert_array_equal(
        np.stack(list(video.stream(data, threads=3)))[[45, 3, 20]], expected
    )


def assert_reads_as_plainly(data, num_frames=NUM_FRAMES):
    expected = videos.read_plainly(data)
    assert len(expected) == num_frames
    with Video(data) as opened:
        assert opened.num_frames == num_frames
        for k in range(num_frames):
            np.testing.assert_array_equal(opened.frames([k])[0], expected[k], f"frame {k}")
        np.testing.assert_array_equal(opened.frames(np.arange(num_frames)), expected)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_variable_frame_rate(pictures, container):
    gaps = np.random.default_rng(0).integers(1, 300, NUM_FRAMES)
    data = videos.encode(pictures, container, options=videos.B_FRAMES, pts=np.cumsum(gaps).tolist())
    assert_reads_as_plainly(data)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv"])
@pytest.mark.parametrize("start", [-200, 90_000])
def test_times_that_start_below_or_far_above_zero(pictures, container, start):
    pts = (start + 40 * np.arange(NUM_FRAMES)).tolist()
    data = videos.encode(pictures, container, options=videos.B_FRAMES, pts=pts)
    # MP4 writes a start below zero as an edit list that hides the frames before zero.
    hidden = 5 if container == "mp4" and start < 0 else 0
    assert_reads_as_plainly(data, NUM_FRAMES - hidden)


def remuxed(data, container, change):
    """The same packets with other time stamps; `change` gives packet k's (pts, dts)."""
    with av.open(videos.io.BytesIO(data)) as source:
        copy = videos.io.BytesIO()
        with av.open(copy, "w", format=container) as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux(video=0)):
                if packet.size:
                    packet.stream = stream
                    packet.pts, packet.dts = change(number, packet)
                    out.mux(packet)
    return copy.getvalue()


BROKEN_TIMES = {
    "decoding times": lambda k, packet: (packet.dts + 9999, packet.dts + 9999),
    "shuffled": lambda k, packet: (packet.dts + 9999 + 512 * (k * 7 % 5), packet.dts + 9999),
    "two alike": lambda k, packet: (packet.pts + 512 * (k == 20), packet.dts),
}


@pytest.mark.parametrize("change", BROKEN_TIMES.values(), ids=BROKEN_TIMES)
def test_broken_presentation_times(pictures, change):
    data = remuxed(videos.encode(pictures, options=videos.B_FRAMES), "mp4", change)
    assert_reads_as_plainly(data)


def test_raw_h264_has_no_times(pictures):
    # In AVI the packets of H.264 with B-frames have no presentation times at all.
    assert_reads_as_plainly(videos.encode(pictures, "avi", options=videos.B_FRAMES))


def test_broken_duration_and_frame_count(pictures):
    data = bytearray(videos.encode(pictures, options=videos.B_FRAMES))
    for box in (b"mvhd", b"mdhd"):
        place = data.index(box) + 4
        data[place + 16 : place + 20] = b"\xff\xff\xff\xfe"
    assert_reads_as_plainly(bytes(data), NUM_FRAMES)


@pytest.mark.parametrize(("height", "width"), [(45, 67), (33, 48), (16, 17)])
@pytest.mark.parametrize("name", ["avi-mpeg4-plain", "webm-vp9", "avi-mjpeg"])
def test_odd_sizes(name, height, width):
    data = videos.encode(videos.moving_frames(12, height, width), *videos.ENCODINGS[name])
    with Video(data) as opened:
        assert (opened.info.height, opened.info.width) == (height, width)
    assert_reads_as_plainly(data, 12)


@pytest.mark.parametrize("name", ["mp4-h264", "avi-mpeg4", "webm-vp9", "mkv-av1"])
def test_one_frame(name):
    data = videos.encode(videos.moving_frames(1), *videos.ENCODINGS[name])
    assert_reads_as_plainly(data, 1)
    assert Video(data).frames([0] * 16).shape == (16, 48, 64, 3)


@pytest.mark.parametrize("name", ["mp4-h264", "mkv-mpeg4", "avi-mpeg4"])
def test_sound_and_a_smaller_picture_do_not_matter(pictures, name):
    container, codec, options = videos.ENCODINGS[name]
    data = videos.encode(pictures, container, codec, options, audio="aac")
    with av.open(videos.io.BytesIO(data)) as opened:
        assert len(opened.streams.audio) == 1
    assert_reads_as_plainly(data)


def test_info(pictures):
    info = video.probe(videos.encode(pictures), "clip.mp4")
    expected = video.VideoInfo("clip.mp4", NUM_FRAMES, 64, 48, 25.0, 2.0, "h264", 0)
    assert info == expected


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_stand_upright_as_opencv_shows_them(tmp_path, degrees):
    path = tmp_path / "phone.mp4"
    data = videos.encode(videos.moving_frames(3, 64, 96), options={"crf": "10"}, rotation=degrees)
    path.write_bytes(data)
    with Video(path) as opened:
        frames, info = opened.frames([0, 1, 2]), opened.info
    capture = cv2.VideoCapture(str(path))
    expected = np.stack([capture.read()[1][..., ::-1] for _ in range(3)])
    capture.release()
    assert frames.shape == expected.shape
    assert (info.height, info.width) == frames.shape[1:3]
    assert info.rotation in (90, 180, 270)
    assert np.abs(frames.astype(int) - expected).mean() < 3
    np.testing.assert_array_equal(np.stack(list(video.stream(path))), frames)


def test_a_late_frame_costs_its_own_group_of_pictures(pictures, monkeypatch):
    sent = []

    def counted(decoder, packet, plain=packets.decode_packet):
        sent.append(packet)
        return plain(decoder, packet)

    monkeypatch.setattr(packets, "decode_packet", counted)
    with Video(videos.encode(pictures, options=videos.B_FRAMES)) as opened:
        opened.frames([NUM_FRAMES - 4])
    assert len(sent) <= 13


def test_shrinking_on_the_fly_changes_no_number(pictures):
    with Video(videos.encode(pictures)) as opened:
        small = opened.frames([3, 40], short_side=20)
        np.testing.assert_array_equal(
            small, transforms.resize_short_side(opened.frames([3, 40]), 20)
        )


def test_stream_does_not_read_ahead(pictures, monkeypatch):
    taken = []

    def counted(container, stream, plain=packets.demux):
        for packet in plain(container, stream):
            taken.append(packet)
            yield packet

    monkeypatch.setattr(packets, "demux", counted)
    frames = video.stream(videos.encode(pictures, options={"bf": "0", "tune": "zerolatency"}))
    assert len(list(itertools.islice(frames, 5))) == 5
    assert len(taken) <= 6
    frames.close()


def test_an_undecodable_frame_is_held(pictures):
    data = bytearray(videos.encode(pictures, *videos.ENCODINGS["avi-mjpeg"]))
    expected = videos.read_plainly(bytes(data))
    starts = [place for place in range(len(data)) if data.startswith(b"00dc", place)]
    chunk = starts[11] + 8  # the first is in the header
    data[chunk : chunk + 300] = bytes(300)
    with Video(bytes(data)) as opened:
        assert opened.num_frames == NUM_FRAMES
        frames = opened.frames([9, 10, 11])
        assert opened.count_broken() == 1
    np.testing.assert_array_equal(frames, expected[[9, 9, 11]])


def test_a_cut_file_gives_what_is_there(pictures):
    whole = videos.encode(pictures, "flv", options={"bf": "0"})
    with Video(whole[: len(whole) * 2 // 3]) as opened:
        found = opened.num_frames
        assert 10 < found < NUM_FRAMES
        frames = opened.frames(np.arange(found - 1))
    np.testing.assert_array_equal(frames, videos.read_plainly(whole)[: found - 1])


def test_numbers_out_of_range_are_a_mistake_of_the_caller(pictures):
    with Video(videos.encode(pictures[:5]), "five.mp4") as opened:
        for indices in ([5], [-1], []):
            with pytest.raises(IndexError, match=r"five\.mp4: frame numbers must be 0 to 4"):
                opened.frames(indices)


# Here the decoder finds the true size in the data itself.
HARMLESS = ("avi-mjpeg-header", "mp4")
HUGE = [name for name in videos.gigantic() if name not in HARMLESS]


@pytest.mark.parametrize("name", HUGE)
def test_a_gigantic_declared_size_is_refused(name):
    with pytest.raises(VideoError, match=rf"^{name}: (frames of|not readable|no frame)"):
        Video(videos.gigantic()[name], name).frames([0])


def test_packets_that_add_up_to_many_times_the_file_are_refused(pictures):
    # Every sample's size in the table becomes that of the whole file, and all start at its start.
    data = bytearray(videos.encode(pictures, options={"bf": "0"}))
    data += bytes(200_000)
    table = data.index(b"stsz") + 16
    for sample in range(NUM_FRAMES):
        data[table + 4 * sample : table + 4 * sample + 4] = (195_000).to_bytes(4)
    chunks = data.index(b"stsc") + 12
    data[chunks : chunks + 12] = b"".join(n.to_bytes(4) for n in (1, 1, 1))
    offsets = data.index(b"stco")
    assert int.from_bytes(data[offsets + 8 : offsets + 12]) == 1
    with pytest.raises(VideoError, match=r"^bomb\.mp4: "):
        Video(bytes(data), "bomb.mp4").frames([0])


def test_a_table_that_counts_millions_of_samples_is_refused(pictures, tmp_path):
    data = videos.encode(pictures, options={"bf": "0"})
    samples = (20_000_000).to_bytes(4)
    bomb = videos.replaced(data, data.index(b"stsz") + 8, (1).to_bytes(4) + samples)
    for box, offset in ((b"stsc", 16), (b"stts", 12)):
        bomb = videos.replaced(bomb, bomb.index(box) + offset, samples)
    (tmp_path / "bomb.mp4").write_bytes(bomb)
    for source in (bomb, tmp_path / "bomb.mp4"):
        with pytest.raises(VideoError, match="a table of samples exceeds the file's size"):
            Video(source)
    pieces = videos.encode(pictures, container_options={"movflags": "frag_keyframe+empty_moov"})
    assert_reads_as_plainly(pieces)
    with pytest.raises(VideoError, match="a table of samples exceeds the file's size"):
        Video(videos.replaced(pieces, pieces.index(b"trun") + 8, samples))


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", b"\x89PNG\r\n\x1a\n"]
)
def test_other_files_are_named(tmp_path, content):
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"text\.mp4: not readable as a video"):
        video.probe(path)
    with pytest.raises(VideoError, match=r"text\.mp4: not readable as a video"):
        next(video.stream(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        Video(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="not readable as a video"):
        Video(tmp_path)


def test_a_sound_file_holds_no_video():
    file = videos.io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        sound = out.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        out.mux(sound.encode(silence))
        out.mux(sound.encode(None))
    with pytest.raises(VideoError, match=r"song\.mp4: no video stream that can be decoded"):
        Video(file.getvalue(), "song.mp4")


@pytest.mark.parametrize("name", ["take:2.mp4", "http:x.mp4", "100%d #1 !.mp4", "ü ñ.mp4", "-"])
def test_file_names_are_only_names(tmp_path, monkeypatch, pictures, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(videos.encode(pictures[:3]))
    assert video.decode(name, [2]).shape == (1, 48, 64, 3)


def test_jpegs_are_read_like_a_video(pictures):
    jpegs = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in pictures[:3]]
    with pytest.raises(VideoError, match="clip: frame 1 is not a readable JPEG"):
        FrameSequence(jpegs, "clip").frames([1])
    jpegs = [
        cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        for frame in pictures[:3]
    ]
    frames = FrameSequence(jpegs).frames([2, 0, 2])
    assert np.abs(frames.astype(int) - pictures[[2, 0, 2]]).mean() < 6
    np.testing.assert_array_equal(
        FrameSequence(jpegs).frames([2, 0, 2], short_side=24),
        transforms.resize_short_side(frames, 24),
    )


def test_a_gigantic_jpeg_is_refused(pictures):
    jpeg = bytearray(cv2.imencode(".jpg", pictures[0])[1].tobytes())
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(VideoError, match="frame 0 is not a readable JPEG"):
        FrameSequence([bytes(jpeg)]).frames([0])


def test_time_base_of_the_helper():
    # The test's own encoder keeps the times it is given.
    data = videos.encode(videos.moving_frames(3), pts=[0, 100, 700])
    with av.open(videos.io.BytesIO(data)) as opened:
        times = [frame.pts * frame.time_base for frame in opened.decode(video=0)]
    assert times == [0, Fraction(1, 10), Fraction(7, 10)]


def test_packets_of_a_stream_that_appears_late_are_passed_over(pictures):
    class Container:
        """Raises once, as PyAV over a packet of a stream that it does not know."""

        def __init__(self, container):
            self.container, self.calls = container, 0

        def demux(self, stream):
            self.calls += 1
            for number, packet in enumerate(self.container.demux(stream)):
                yield packet
                if self.calls == 1 and number == 9:
                    raise IndexError

    with packets.open_container(videos.encode(pictures, "mpegts")) as opened:
        container = Container(opened)
        demux = inspect.unwrap(packets.demux)  # the tests check the types of arguments
        assert len(list(demux(container, opened.streams.video[0]))) == NUM_FRAMES
    assert container.calls == 2
