"""Which frames show an annotated second, and where they are on disk.

Frames are numbered from 1 at 30 a second from second 900 on, as AVA's own preparation names them.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from squeezetime_jax.data.sources import ShardSource
from squeezetime_jax.data.video import FrameSequence, Video, VideoError
from squeezetime_jax.errors import UserError, check_fields

INDEX = "seconds.json"
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames make a clip around a second.

    Attributes:
      num_frames: frames of the clip.
      frame_interval: from one to the next.
      fps: numbered frames in a second.
      start: the second that frame 1 shows.
      end: the second after the last frame.
      frame_offset: 1: numbers as mmaction2 gives them from 1.1.0 on; 0: one less, as 1.0 did.
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
        """Numbers of a clip's frames, rising, from 1; borders are repeated beyond them.

        Args:
          second: the annotated second; the clip's middle frame (of 16, the ninth) shows it.
          rng: moves every frame by itself within its interval (training); None: none is.
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
        """Numbers of all frames that clips around a second may take, moved or not."""
        step, numbers = self.frame_interval, self.numbers(second)
        last = self.fps * (self.end - self.start) - 1 + self.frame_offset
        first = max(int(numbers[0]) - step // 2, 1)
        return np.arange(first, min(int(numbers[-1]) + (step + 1) // 2 - 1, last) + 1)

    def second_of(self, numbers: Int64[np.ndarray, " t"]) -> int:
        """The second that a clip's frames are around, moved or not."""
        middle = int(numbers[self.num_frames // 2]) - 1 - self.frame_offset
        return self.start + round(middle / self.fps)

    def seconds(self, numbers: Int64[np.ndarray, " t"]) -> np.ndarray:
        """When the numbered frames are shown."""
        return self.start + (numbers - 1) / self.fps


@runtime_checkable
class Frames(Protocol):
    """The frames of all videos of a data set."""

    def read(self, video_id: str, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """Numbered frames of a video, RGB.

        Raises:
          VideoError: a frame is not there, or not readable; it is named.
        """


@dataclasses.dataclass(frozen=True)
class FolderFrames:
    """A folder of JPEG for each video: `<root>/<video_id>/img_00001.jpg`.

    Attributes:
      root: the folder of folders.
      template: of the files' names.
    """

    root: Path
    template: str = "img_{:05}.jpg"

    def read(self, video_id: str, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """As `Frames.read`."""
        distinct, places = np.unique(numbers, return_inverse=True)
        images = [self._image(self.root / video_id / self.template.format(n)) for n in distinct]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise VideoError(
                f"{self.root / video_id}: frames of {len(shapes)} sizes; extract them again"
            )
        return np.stack([images[place] for place in places])

    @staticmethod
    def _image(path: Path) -> np.ndarray:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise VideoError(
                f"{path}: frame is not readable ({error.strerror}); extract the video's frames"
                " again, or exclude the second"
            ) from None
        return FrameSequence([data], str(path)).frames([0])[0]


@dataclasses.dataclass(frozen=True)
class VideoFrames:
    """Whole videos: `<root>/<video_id>.mp4` or another kind.

    Attributes:
      root: the videos' folder.
      sampling: says when a numbered frame is shown.
      begins_at: the second that a file's first frame shows: 0 for AVA's whole films.
    """

    root: Path
    sampling: Sampling
    begins_at: float = 0.0

    def read(self, video_id: str, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """As `Frames.read`: of each time, the nearest frame of the file."""
        path = self._path(video_id)
        with Video(path) as video:
            fps = _fps(path, video)
            seconds = self.sampling.seconds(numbers) - self.begins_at
            indices = np.floor(seconds * fps + 0.5).astype(np.int64)
            # A film's last second may lack a frame or two of what its length promises.
            if indices.min() < 0 or indices.max() >= video.num_frames + fps:
                raise VideoError(
                    f"{path}: has {video.num_frames} frames from second {self.begins_at:g} on, but"
                    f" those of seconds {self.begins_at + seconds.min():.2f} to"
                    f" {self.begins_at + seconds.max():.2f} are wanted; check begins_at, or exclude"
                    " the second"
                )
            return video.frames(np.minimum(indices, video.num_frames - 1))

    def _path(self, video_id: str) -> Path:
        for suffix in VIDEO_SUFFIXES:
            path = self.root / (video_id + suffix)
            if path.is_file():
                return path
        kinds = ", ".join(VIDEO_SUFFIXES)
        raise VideoError(
            f"{self.root / video_id}: no such video with any of {kinds}; check data.frames"
        )


class ShardFrames:
    """The frames around each annotated second as one record of a shard.

    What `tasks.detection.prepare` writes: a clip is one read instead of a file
    for each frame, or a seek in a film.

    Args:
      root: the shards' folder.
      sampling: how clips are taken, as when the shards were written.

    Raises:
      UserError: the shards are for other clips.
    """

    def __init__(self, root: Path, sampling: Sampling):
        self._root, self._sampling = root, sampling
        index = read_index(root)
        wanted = dataclasses.asdict(sampling)
        if index["sampling"] != wanted:
            raise UserError(
                f"{root}: prepared for clips of {index['sampling']}, wanted {wanted}; prepare them"
                " again, or set data as it was then"
            )
        self._places = {
            name: (split, number)
            for split, names in index["splits"].items()
            for number, name in enumerate(names)
        }
        self._sources = {split: ShardSource(root, split) for split in index["splits"]}

    def read(self, video_id: str, numbers: Int64[np.ndarray, " t"]) -> UInt8[np.ndarray, "t h w 3"]:
        """As `Frames.read`."""
        second = self._sampling.second_of(numbers)
        name = second_name(video_id, second)
        if name not in self._places:
            raise VideoError(
                f"{self._root}: holds no frames of {name}; prepare them, or exclude the second"
            )
        split, number = self._places[name]
        with self._sources[split][number].open() as stored:
            return stored.frames(numbers - self._sampling.window(second)[0])


def second_name(video_id: str, second: int) -> str:
    """The name of a second's record, as AVA's proposals have it."""
    return f"{video_id},{second:04d}"


def read_index(root: Path) -> dict[str, Any]:
    """Which seconds lie in which order in a folder of shards, and for which clips.

    Raises:
      UserError: the index is damaged.
    """
    try:
        index = json.loads((root / INDEX).read_text())
        return {"sampling": dict(index["sampling"]), "splits": dict(index["splits"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root / INDEX}: damaged ({error}); prepare the shards again") from None


def _fps(path: Path, video: Video) -> float:
    fps = _known_fps(path, path.stat().st_mtime_ns)
    if fps <= 0:
        raise VideoError(f"{path}: does not tell its frames per second; convert it to mp4")
    return fps


@functools.lru_cache(4096)
def _known_fps(path: Path, changed: int) -> float:
    with Video(path) as video:
        return video.info.fps


def open_frames(root: str | Path, sampling: Sampling, begins_at: float = 0.0) -> Frames:
    """Frames as prepared shards, folders of JPEG, or straight from videos: what `root` holds."""
    root = Path(root)
    if (root / INDEX).exists():
        return ShardFrames(root, sampling)
    holds_videos = root.is_dir() and any(
        entry.suffix in VIDEO_SUFFIXES for entry in root.iterdir() if entry.is_file()
    )
    return VideoFrames(root, sampling, begins_at) if holds_videos else FolderFrames(root)
