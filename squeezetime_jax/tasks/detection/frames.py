"""Which frames show an annotated second, and where they are on disk.

Frames are numbered from 1 at 30 a second from second 900 on, as AVA's own preparation names them.
They are read from folders of JPEG, from videos, or from shards that `prepare` wrote.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from squeezetime_jax.data import prepare as shards
from squeezetime_jax.data import records, transforms
from squeezetime_jax.data.sources import ShardSource
from squeezetime_jax.data.video import FrameSequence, Video, VideoError
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError, check_fields
from squeezetime_jax.files import write_whole
from squeezetime_jax.tasks.detection.annotations import Frame

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

_INDEX = "seconds.json"
_TEMPLATE = "img_{:05}.jpg"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames make a clip around a second.

    Attributes:
      num_frames: frames of the clip.
      frame_interval: from one to the next.
      fps: numbered frames per second.
      start: the second that frame 1 shows.
      end: the second after the last frame.
      frame_offset: 1: numbers as mmaction2 gives them from 1.1.0 on; 0: one less, as 1.0 did.

    Raises:
      ValueError: a field is out of range.
    """

    num_frames: int = 16
    frame_interval: int = 4
    fps: int = 30
    start: int = 900
    end: int = 1800
    frame_offset: int = 1

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("num_frames", self.num_frames >= 1, "at least 1"),
            ("frame_interval", self.frame_interval >= 1, "at least 1"),
            ("fps", self.fps >= 1, "at least 1"),
            ("end", self.end > self.start, f"more than {self.start}"),
            ("frame_offset", self.frame_offset in (0, 1), "0 or 1"),
        )

    def numbers(
        self, second: int, rng: np.random.Generator | np.random.RandomState | None = None
    ) -> Int64[np.ndarray, " t"]:
        """Numbers of a clip's frames, rising, from 1; beyond the ends the last ones repeat.

        Args:
          second: the annotated second; the clip's middle frame (of 16, the ninth) shows it.
          rng: shifts each frame independently within its interval (training); None: no shift.
        """
        step, half = self.frame_interval, self.num_frames // 2
        middle = self.fps * (second - self.start) + 1
        numbers = middle + step * (np.arange(self.num_frames) - half)
        if rng is not None:
            draw = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
            numbers = numbers + draw(-step // 2, (step + 1) // 2, self.num_frames)
        last = self.fps * (self.end - self.start) - 1
        return np.maximum(np.clip(numbers, 0, last) + self.frame_offset, 1).astype(np.int64)

    def window(self, second: int) -> Int64[np.ndarray, " n"]:
        """Numbers of all frames that clips around a second may contain, shifted or not."""
        step, numbers = self.frame_interval, self.numbers(second)
        last = self.fps * (self.end - self.start) - 1 + self.frame_offset
        first = max(int(numbers[0]) - step // 2, 1)
        return np.arange(first, min(int(numbers[-1]) + (step + 1) // 2 - 1, last) + 1)

    def seconds(self, numbers: Int64[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """When the numbered frames are shown."""
        return self.start + (numbers - 1) / self.fps

    def times(self, second: float) -> Float[np.ndarray, " t"]:
        """When the frames of a clip around any moment are shown; neither shifted nor repeated."""
        steps = self.frame_interval * (np.arange(self.num_frames) - self.num_frames // 2)
        return second + (steps + self.frame_offset) / self.fps


@dataclasses.dataclass(frozen=True)
class FolderFrames:
    """A folder of JPEG for each video: `<root>/<video_id>/img_00001.jpg`.

    Attributes:
      root: the folder of folders.
    """

    root: Path

    def read(self, frame: Frame, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """Numbered frames around an annotated second, RGB.

        Raises:
          VideoError: a frame is missing or unreadable; the message names it.
        """
        folder = self.root / frame[0]
        distinct, places = np.unique(numbers, return_inverse=True)
        images = [_read_jpeg(folder / _TEMPLATE.format(n)) for n in distinct]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise VideoError(f"{folder}: frames of {len(sizes)} sizes; extract them again")
        return np.stack([images[place] for place in places])


def _read_jpeg(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(
            f"{path}: cannot read the frame ({error.strerror}); extract the video's frames again,"
            " or exclude the second"
        ) from None
    return FrameSequence([data], str(path)).frames([0])[0]


@dataclasses.dataclass(frozen=True)
class VideoFrames:
    """Whole videos: `<root>/<video_id>.mp4` or another suffix.

    Attributes:
      root: the videos' folder.
      sampling: says when a numbered frame is shown.
      begins_at: the second that a file's first frame shows: 0 for AVA's whole films.
    """

    root: Path
    sampling: Sampling
    begins_at: float = 0.0

    def read(self, frame: Frame, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """As `FolderFrames.read`: for each time, the nearest frame of the file."""
        path = self._find(frame[0])
        with Video(path) as video:
            fps = _fps(path, path.stat().st_mtime_ns)
            seconds = self.sampling.seconds(numbers) - self.begins_at
            indices = nearest_indices(seconds, fps)
            # The last second of a film may lack a frame or two of what its length promises.
            if indices.min() < 0 or indices.max() >= video.num_frames + fps:
                first, last = (self.begins_at + float(s) for s in (seconds.min(), seconds.max()))
                raise VideoError(
                    f"{path}: {video.num_frames} frames from second {self.begins_at:g} on, but the"
                    f" clip needs seconds {first:.2f} to {last:.2f}; check data.begins_at, or"
                    " exclude the second"
                )
            return video.frames(np.minimum(indices, video.num_frames - 1))

    def _find(self, video_id: str) -> Path:
        for suffix in VIDEO_SUFFIXES:
            path = self.root / (video_id + suffix)
            if path.is_file():
                return path
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise VideoError(
            f"{self.root / video_id}: no such video (tried {suffixes}); check data.frames"
        )


def nearest_indices(times: Float[np.ndarray, " t"], fps: float) -> Int64[np.ndarray, " t"]:
    """Index of the frame that is nearest to each time; may be outside the video.

    Args:
      times: in seconds from the first frame on.
      fps: frames per second.
    """
    return np.floor(times * fps + 0.5).astype(np.int64)


@functools.lru_cache(4096)
def _fps(path: Path, changed: int) -> float:
    """Frames per second of a file, which is read once until it changes."""
    with Video(path) as video:
        return check_fps(path, video.info.fps)


def check_fps(path: str | Path, fps: float) -> float:
    """The frame rate of a video.

    Raises:
      VideoError: the file does not say.
    """
    if fps <= 0:
        raise VideoError(f"{path}: the frame rate is unknown; convert the video to mp4")
    return fps


class ShardFrames:
    """The frames around each annotated second as one record of a shard, which `prepare` wrote.

    A clip is one read instead of one file per frame, or a seek in a film.

    Args:
      root: the shards' folder.
      sampling: how clips are taken; the same as when the shards were written.

    Raises:
      UserError: the shards are for other clips, or their index is damaged.
    """

    def __init__(self, root: Path, sampling: Sampling):
        self._root, self._sampling = root, sampling
        index = _read_index(root, sampling)
        self._places = {
            name: (split, place)
            for split, names in index["splits"].items()
            for place, name in enumerate(names)
        }
        self._sources = {split: ShardSource(root, split) for split in index["splits"]}

    def read(self, frame: Frame, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """As `FolderFrames.read`."""
        name = frame_name(frame)
        if name not in self._places:
            raise VideoError(f"{self._root}: no frames of {name}; prepare or exclude the second")
        split, place = self._places[name]
        with self._sources[split][place].open() as stored:
            return stored.frames(numbers - self._sampling.window(frame[1])[0])


Frames = FolderFrames | VideoFrames | ShardFrames
"""The frames of all videos of a data set."""


def frame_name(frame: Frame) -> str:
    """`<video_id>,<second>`: how AVA's proposals name a frame."""
    return f"{frame[0]},{frame[1]:04d}"


def _read_index(root: Path, sampling: Sampling) -> dict[str, Any]:
    """Which seconds a folder of shards holds, in their order."""
    try:
        index = json.loads((root / _INDEX).read_text())
        index = {"sampling": dict(index["sampling"]), "splits": dict(index["splits"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root / _INDEX}: damaged ({error}); prepare the shards again") from None
    fields = dataclasses.asdict(sampling)
    differing = [name for name in fields if index["sampling"].get(name) != fields[name]]
    if differing:
        found, now = (
            ", ".join(f"{name}={values.get(name)}" for name in differing)
            for values in (index["sampling"], fields)
        )
        raise UserError(
            f"{root}: the shards were prepared with {found}, but the config has {now}; use another"
            " folder, or the fields of then"
        )
    return index


def open_frames(root: str | Path, sampling: Sampling, begins_at: float = 0.0) -> Frames:
    """Prepared shards, folders of JPEG or videos, depending on what `root` holds."""
    root = Path(root)
    if (root / _INDEX).exists():
        return ShardFrames(root, sampling)
    holds_videos = root.is_dir() and any(
        entry.suffix in VIDEO_SUFFIXES for entry in root.iterdir() if entry.is_file()
    )
    return VideoFrames(root, sampling, begins_at) if holds_videos else FolderFrames(root)


def write_shards(
    frames: Frames,
    seconds: Sequence[Frame],
    sampling: Sampling,
    out: Path,
    split: str,
    short_side: int,
    processes: int | None = None,
) -> shards.Report:
    """Pack all frames around annotated seconds into shards; see `dataset.prepare`."""
    names = [frame_name(frame) for frame in dict.fromkeys(seconds)]
    job = shards.Job(
        videos=[(name, 0) for name in names],
        root=out,
        out=out,
        split=split,
        form="jpeg",
        short_side=short_side,
    )
    index = {"sampling": dataclasses.asdict(sampling), "splits": {}}
    if (out / _INDEX).exists():
        index = _read_index(out, sampling)
    encode = functools.partial(_encode, frames, sampling, short_side)
    with progress_bar("packing", len(names)) as progress:
        report = shards.prepare(job, processes, progress, encode)
    bad = {name for name, _ in report.bad}
    index["splits"][split] = [name for name in names if name not in bad]
    write_whole(out / _INDEX, json.dumps(index))
    return report


def _encode(
    frames: Frames, sampling: Sampling, short_side: int, listed: tuple[str, int]
) -> list[bytes]:
    video_id, second = listed[0].rsplit(",", 1)
    images = frames.read((video_id, int(second)), sampling.window(int(second)))
    if short_side < min(images.shape[1:3]):
        images = transforms.resize_short_side(images, short_side)
    return [records.encode_jpeg(image) for image in images]
