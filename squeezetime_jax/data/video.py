"""Frames of an encoded video by their exact number, upright RGB.

A video is read in two steps. First all packets are read without decoding, which is cheap and gives
the number of frames, the order in which they are shown and the keyframes, whatever the header says
(`packets`). Then a request decodes only the packets between a keyframe and each requested frame,
without those that no other frame refers to.

Inside the decoder a packet's time stamp is replaced by its number, so that a decoded frame shows
which packet it came from: variable frame rates, negative starts and unusual time bases make no
difference. If time stamps are missing, repeated or contradict the decoder's order, frames are
counted from the start instead.

A frame that cannot be decoded is replaced by the last decodable one before it (else the first
after it), as a player holds its picture; a video without any decodable frame is a `VideoError`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import av
import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from squeezetime_jax.data import jpeg, packets, transforms
from squeezetime_jax.data.packets import Source, VideoError
from squeezetime_jax.data.pixels import RgbConverter, quarter_turns

__all__ = [
    "FrameSequence", "Source", "Video", "VideoError", "VideoInfo", "decode", "probe", "stream",
    "stream_address", "timed_stream",
]  # fmt: skip

TimedFrame = tuple[float, UInt8[np.ndarray, "h w 3"]]


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video is.

    Attributes:
      name: the file, as the user gave it.
      num_frames: frames, counted, not taken from the header.
      width: of the upright frame, in pixels.
      height: of the upright frame, in pixels.
      fps: average frames per second; 0.0 if the file does not say.
      duration: seconds; 0.0 if the file does not say.
      codec: FFmpeg's name of the codec.
      rotation: degrees by which stored frames are turned counter-clockwise to stand upright: 0, 90,
        180 or 270.
    """

    name: str
    num_frames: int
    width: int
    height: int
    fps: float
    duration: float
    codec: str
    rotation: int


class _OutOfOrderError(Exception):
    """Frames leave the decoder in another order than that of their time stamps."""


class Video:
    """Random access to the frames of a file or of a file's bytes; a context manager.

    Args:
      source: a path, or the bytes of a file.
      name: its name in errors; by default the path.
      threads: decoder threads. One is best where many videos are read at once.
      max_pixels: the largest accepted frame, width times height.

    Raises:
      VideoError: the file is missing, is not a video, or its frames are too large.
    """

    def __init__(
        self,
        source: Source,
        name: str | None = None,
        *,
        threads: int = 1,
        max_pixels: int = packets.MAX_PIXELS,
    ) -> None:
        self.name = packets.source_name(source, name)
        self._to_rgb = RgbConverter()
        with packets.errors_name(self.name):
            self._file = packets.PacketFile(source, self.name, threads, max_pixels)
        self._index = self._file.index

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @functools.cached_property
    def num_frames(self) -> int:
        """Frames of the video, at least 1."""
        if self._index.num_shown is not None:
            return self._index.num_shown
        with packets.errors_name(self.name):
            count = sum(1 for _ in self._decode_all())
        if not count:
            raise _no_frame(self.name)
        return count

    @functools.cached_property
    def times(self) -> Float[np.ndarray, " frames"]:
        """When each frame is shown, in seconds from the first, ascending.

        Evenly spaced where the file has no usable time stamps: at the rate that its header gives,
        else at 30 a second.
        """
        return self._file.times(self.num_frames)

    @property
    def missing(self) -> str:
        """What the header announces and the file lacks, in words; empty if nothing."""
        return self._file.missing

    @functools.cached_property
    def info(self) -> VideoInfo:
        """Facts about the video; decodes one frame."""
        with packets.errors_name(self.name):
            first = next(self._decode_all(), None)
        if first is None:
            raise _no_frame(self.name)
        width, height = first.width, first.height
        turns = quarter_turns(first)
        rate, duration = self._file.stream.average_rate, self._file.duration
        return VideoInfo(
            name=self.name,
            num_frames=self.num_frames,
            width=height if turns % 2 else width,
            height=width if turns % 2 else height,
            fps=float(rate) if rate else (self.num_frames / duration if duration else 0.0),
            duration=duration,
            codec=self._file.decoder.name,
            rotation=turns * 90,
        )

    @property
    def index_bytes(self) -> int:
        """Memory that the index of the packets takes."""
        return self._index.num_bytes

    def count_broken(self) -> int:
        """Decode everything and count the frames that are missing or that the decoder guessed."""
        with packets.errors_name(self.name):
            intact = sum(1 for frame in self._decode_all() if not frame.is_corrupt)
        return max(self.num_frames - intact, 0)

    def frames(
        self, indices: Sequence[int] | Int[np.ndarray, " t"], *, short_side: int | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames of these numbers, each decoded once.

        Args:
          indices: frame numbers in `[0, num_frames)`, any order, repeats allowed, at least one.
          short_side: resize each frame as it is decoded, by `transforms.resize_short_side`; the
            same numbers as resizing afterwards, without holding the full frames.

        Returns:
          RGB frames, upright. Frames of another size than the first one's are resized to it.

        Raises:
          VideoError: neither a requested frame nor one in its place can be decoded.
          IndexError: a number is out of range, or the list is empty.
        """
        distinct, places = _distinct(indices, self.num_frames, self.name)
        with packets.errors_name(self.name):
            try:
                images = self._images(distinct, short_side)
            except packets.StaleIndexError:
                self._read_index_again()
                distinct, places = _distinct(indices, self.num_frames, self.name)
                images = self._images(distinct, short_side)
        return _stack([images[number] for number in distinct], places)

    def _read_index_again(self) -> None:
        self._file.read_index_again()
        self._index = self._file.index
        for name in ("num_frames", "times", "info"):
            self.__dict__.pop(name, None)

    def _images(self, numbers: list[int], short_side: int | None) -> dict[int, np.ndarray]:
        """Frame number -> image, for each of the ascending numbers."""
        try:
            images = self._convert(self._decode_numbers(numbers), short_side)
        except _OutOfOrderError:
            self._index = dataclasses.replace(self._index, order=None)
            images = self._convert(self._decode_numbers(numbers), short_side)
        missing = [number for number in numbers if number not in images]
        return images | self._hold(missing, short_side) if missing else images

    def _convert(
        self, numbered: Iterator[tuple[int, av.VideoFrame]], short_side: int | None
    ) -> dict[int, np.ndarray]:
        images: dict[int, np.ndarray] = {}
        for number, frame in numbered:
            if number not in images:
                images[number] = self._to_rgb(frame, short_side)
        return images

    def _hold(self, missing: list[int], short_side: int | None) -> dict[int, np.ndarray]:
        """Missing frames from the start: each itself or the last decodable one before it."""
        images: dict[int, np.ndarray] = {}
        waiting = list(reversed(missing))
        last: av.VideoFrame | None = None
        for number, frame in self._decode_numbered():
            while waiting and waiting[-1] < number:
                images[waiting.pop()] = self._to_rgb(last or frame, short_side)
            last = frame
            if not waiting:
                return images
        if last is None:
            raise _no_frame(self.name)
        return images | {number: self._to_rgb(last, short_side) for number in waiting}

    def _decode_numbers(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of those frames that decode, from the nearest keyframes."""
        if self._index.order is None:
            yield from self._count_to(numbers)
            return
        chosen = set(self._index.order[numbers].tolist())
        for start, stop in self._runs(chosen):
            previous = -1
            for frame in self._decode_packets(start, stop, chosen):
                number = -1 if frame.pts is None else int(self._index.rank[frame.pts])
                if number < previous:
                    raise _OutOfOrderError
                previous = number
                if frame.pts in chosen:
                    yield number, frame

    def _count_to(self, numbers: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        chosen = set(numbers)
        for number, frame in self._decode_numbered():
            if number in chosen:
                yield number, frame
            if number >= numbers[-1]:
                return

    def _runs(self, chosen: set[int]) -> list[tuple[int, int]]:
        """Ranges of packets to decode, each from a keyframe, that cover the chosen packets."""
        beyond = 0 if self._index.steady else self._file.reorder_depth + 1
        runs: list[tuple[int, int]] = []
        for packet in sorted(chosen):
            start = self._index.key_for(packet)
            if runs and start < runs[-1][1]:
                start = runs.pop()[0]
            runs.append((start, packet + 1 + beyond))
        return runs

    def _decode_numbered(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of all frames that decode, from the start."""
        for count, frame in enumerate(self._decode_all()):
            if self._index.order is None:
                yield count, frame
            elif frame.pts is not None and self._index.rank[frame.pts] >= 0:
                yield int(self._index.rank[frame.pts]), frame

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        return self._decode_packets(0, len(self._index), None)

    def _decode_packets(
        self, start: int, stop: int, chosen: set[int] | None
    ) -> Iterator[av.VideoFrame]:
        """Frames from the packets of a range; `pts` of each is its packet's number.

        Where packets are chosen, others that nothing refers to are not decoded.
        """
        self._file.reset_decoder()
        skipping: bool | None = None
        for number, packet in self._file.read(start, stop):
            decoder = self._file.decoder  # seeking may have opened the file anew
            skip = chosen is not None and self._index.steady and number not in chosen
            if skip != skipping:
                decoder.skip_frame = "NONREF" if skip else "DEFAULT"
                skipping = skip
            packet.pts = packet.dts = number
            yield from packets.decode_packet(decoder, packet)
        # Ending the stream here brings out what the decoder holds back, at no more decoding.
        yield from packets.decode_packet(self._file.decoder, None)


class FrameSequence:
    """The same access to a video stored as one JPEG per frame.

    The time of a frame is in its JPEG (`jpeg.with_time`); frames without one are 30 a second.

    Args:
      jpegs: the encoded frames.
      name: its name in errors.
    """

    def __init__(self, jpegs: Sequence[bytes], name: str = "<frames>") -> None:
        self.name = name
        self._jpegs = jpegs

    def __enter__(self) -> "FrameSequence":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return len(self._jpegs)

    @functools.cached_property
    def times(self) -> Float[np.ndarray, " frames"]:
        """As `Video.times`."""
        has_times = jpeg.time_of(self._jpegs[0]) is not None  # folders of pictures have none
        times = [jpeg.time_of(encoded) for encoded in self._jpegs] if has_times else [None]
        if None in times:
            return np.arange(self.num_frames) / packets.ASSUMED_FPS
        return np.maximum.accumulate(np.array(times))

    def frames(
        self, indices: Sequence[int] | Int[np.ndarray, " t"], *, short_side: int | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """As `Video.frames`."""
        distinct, places = _distinct(indices, self.num_frames, self.name)
        return _stack([self._image(number, short_side) for number in distinct], places)

    def _image(self, number: int, short_side: int | None) -> np.ndarray:
        encoded, image = self._jpegs[number], None
        if 0 < jpeg.num_pixels(encoded) <= packets.MAX_PIXELS:
            image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise VideoError(
                f"{self.name}: frame {number} is not a readable JPEG; prepare the video again"
            )
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        return image if short_side is None else transforms.resize_short_side(image, short_side)


def probe(source: Source, name: str | None = None) -> VideoInfo:
    """Facts about a video, from its packets and its first frame.

    Raises:
      VideoError: it is not a readable video.
    """
    with Video(source, name) as video:
        return video.info


def decode(
    source: Source, indices: Sequence[int] | Int[np.ndarray, " t"], name: str | None = None
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of these numbers; see `Video.frames`."""
    with Video(source, name) as video:
        return video.frames(indices)


def stream(
    source: Source, name: str | None = None, *, threads: int = 1
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """All frames in order, as `timed_stream`, without their times."""
    for _, frame in timed_stream(source, name, threads=threads):
        yield frame


def timed_stream(
    source: Source,
    name: str | None = None,
    *,
    threads: int = 1,
    max_pixels: int = packets.MAX_PIXELS,
) -> Iterator[TimedFrame]:
    """All frames in order, one at a time, in memory that does not grow with the video.

    Undecodable frames are left out. Frames of another size than the first are resized to it.

    Args:
      source: a path, or the bytes of a file.
      name: its name in errors; by default the path.
      threads: decoder threads.
      max_pixels: the largest accepted frame, width times height.

    Yields:
      Seconds from the first frame on, ascending, and the RGB frame, upright.

    Raises:
      VideoError: it is not a readable video, or no frame can be decoded.
    """
    name = packets.source_name(source, name)
    with (
        packets.errors_name(name),
        packets.open_container(source, max_pixels) as container,
    ):
        yield from _timed_frames(container, name, threads, max_pixels)


def stream_address(location: str, *, timeout: float) -> Iterator[TimedFrame]:
    """As `timed_stream`, for a URL; frames come as they arrive, at the times that it gives.

    Args:
      location: what FFmpeg opens.
      timeout: the longest wait for data, in seconds.

    Raises:
      VideoError: it cannot be opened, or its connection breaks.
    """
    try:
        with packets.open_address(location, timeout) as container, packets.size_limit(location):
            yield from _timed_frames(container, location, 0, packets.MAX_PIXELS)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{location}: cannot be read ({reason}); check the address and that its server runs"
        ) from error


def _timed_frames(
    container: av.container.InputContainer, name: str, threads: int, max_pixels: int
) -> Iterator[TimedFrame]:
    video = packets.video_stream(container, name, threads, max_pixels)
    to_rgb = RgbConverter()
    gap = 1 / (float(video.average_rate or 0) or packets.ASSUMED_FPS)
    unit = float(video.time_base or 0)
    start, seconds = 0, -gap
    first: np.ndarray | None = None
    for packet in itertools.chain(packets.demux(container, video), (None,)):
        for frame in packets.decode_packet(video.codec_context, packet):
            image = to_rgb(frame, None)
            if first is None:
                first, start = image, frame.pts or 0
            # Times that are missing or fall back are those of an even rate.
            time = seconds if frame.pts is None else (frame.pts - start) * unit
            seconds = time if time > seconds else seconds + gap
            yield seconds, _like(image, first)
    if first is None:
        raise _no_frame(name)


def _distinct(
    indices: Sequence[int] | np.ndarray, num_frames: int, name: str
) -> tuple[list[int], np.ndarray]:
    """The distinct numbers, ascending, and the place of each given one among them."""
    numbers = np.asarray(indices, dtype=np.int64)
    if not numbers.size or numbers.min() < 0 or numbers.max() >= num_frames:
        raise IndexError(
            f"{name}: frame numbers must be 0 to {num_frames - 1}, got {numbers.tolist()}"
        )
    distinct, places = np.unique(numbers, return_inverse=True)
    return distinct.tolist(), places.ravel()


def _stack(images: list[np.ndarray], places: np.ndarray) -> np.ndarray:
    """The images at these places, all of the first one's size."""
    return np.stack([_like(images[place], images[0]) for place in places])


def _like(image: np.ndarray, first: np.ndarray) -> np.ndarray:
    if image.shape == first.shape:
        return image
    height, width = first.shape[:2]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _no_frame(name: str) -> VideoError:
    return VideoError(f"{name}: no frame can be decoded; replace or remove the file")
