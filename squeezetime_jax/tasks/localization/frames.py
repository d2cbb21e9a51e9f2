"""Videos at 10 frames a second, resized: straight from files, or prepared as arrays."""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from squeezetime_jax.data import video, workers
from squeezetime_jax.data.sources import VIDEO_SUFFIXES
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.annotations import SAMPLE_RATE, VideoFacts

Frame = UInt8[np.ndarray, "side side 3"]


def repeats(fps: float) -> Iterator[int]:
    """How often each native frame in turn is taken: the reference's counting, 10 a second.

    From 30 frames a second it takes numbers 2, 5, 8, ... (from 0), of 25 2, 4, 7, 9, 12, ... The
    reference has no video below 10 frames a second; there frames are taken more than once.
    """
    step = fps / SAMPLE_RATE
    waiting = 0.0
    while True:
        waiting += 1
        taken = 0
        while waiting >= step:
            waiting -= step
            taken += 1
        yield taken


def num_sampled(num_frames: int, fps: float) -> int:
    """Frames that are taken of a video."""
    return sum(itertools.islice(repeats(fps), num_frames))


def resize(frame: UInt8[np.ndarray, "h w 3"], side: int) -> Frame:
    """Resize to a square, whatever the shape, as the reference: Pillow's bicubic."""
    if frame.shape[:2] == (side, side):
        return frame
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))


def stream(path: str | os.PathLike[str], side: int, fps: float | None = None) -> Iterator[Frame]:
    """The frames of a file at 10 a second, one at a time, in memory that does not grow.

    Args:
      path: the video.
      side: of the frames given.
      fps: native frames per second, where a table says; None: the file's own.

    Raises:
      VideoError: it cannot be read as a video, or does not say how fast it is.
    """
    if fps is None:
        fps = video.probe(path).fps
        if not 0.1 <= fps <= 1000:
            raise video.VideoError(
                f"{path}: says to have {fps:g} frames a second; wanted 0.1 to 1000; encode it again"
            )
    for frame, taken in zip(video.stream(path), repeats(fps), strict=False):
        if taken:
            small = resize(frame, side)
            yield from itertools.repeat(small, taken)


def check_video(path: Path) -> None:
    """Refuse what is no file, before seconds are spent on a network.

    Raises:
      UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")


def find_video(folder: str | os.PathLike[str], name: str) -> Path:
    """The file of a video, by its name without suffix.

    Raises:
      UserError: there is none.
    """
    for suffix in sorted(VIDEO_SUFFIXES):
        path = Path(folder) / f"{name}{suffix}"
        if path.is_file():
            return path
    raise UserError(
        f"{folder}: found no video {name} with a suffix such as .mp4; give data.videos, or a folder"
        " of prepared arrays as data.arrays"
    )


def read_array(
    folder: str | os.PathLike[str], name: str, side: int
) -> UInt8[np.ndarray, "t side side 3"]:
    """A prepared video, mapped from its file and not read yet.

    Raises:
      UserError: there is none, or it is no array of such frames.
    """
    path = Path(folder) / f"{name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: not readable as a prepared video ({reason})") from error
    if array.dtype != np.uint8 or array.shape[1:] != (side, side, 3) or not len(array):
        raise UserError(
            f"{path}: holds {array.dtype} {array.shape}; wanted uint8 (frames, {side}, {side}, 3);"
            " prepare it again or change window.stored_side"
        )
    return array


def write_array(
    videos: str | os.PathLike[str],
    arrays: str | os.PathLike[str],
    side: int,
    item: tuple[str, VideoFacts],
) -> int:
    """Prepare one video; its number of frames.

    Raises:
      UserError: it cannot be read, or is much shorter or longer than its table says.
    """
    name, facts = item
    source = find_video(videos, name)
    with video.Video(source) as opened:
        count = num_sampled(opened.num_frames, facts.fps)
    if abs(count - facts.sample_count) > 2 + 0.02 * facts.sample_count:
        raise UserError(
            f"{source}: gives {count} frames at {SAMPLE_RATE:g} a second; the video table says"
            f" {facts.sample_count}; take the data set's own file"
        )
    path = Path(arrays) / f"{name}.npy"
    part = path.with_suffix(".part")
    shape = (count, side, side, 3)
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    number = -1
    frame: np.ndarray | None = None
    for number, frame in enumerate(itertools.islice(stream(source, side, facts.fps), count)):
        array[number] = frame
    if frame is None:
        raise UserError(f"{source}: is too short for one frame at {SAMPLE_RATE:g} a second")
    array[number + 1 :] = frame  # the last one stands for those that do not decode
    array.flush()
    part.replace(path)
    return count


def prepare(
    facts: Mapping[str, VideoFacts],
    videos: str | os.PathLike[str],
    arrays: str | os.PathLike[str],
    side: int,
    processes: int | None = None,
) -> None:
    """Make the arrays that are not there yet, many at once.

    Args:
      facts: the videos by name.
      videos: folder of the files.
      arrays: folder of the arrays; made if absent.
      side: of the frames.
      processes: default: one per core.

    Raises:
      UserError: a video cannot be read.
    """
    missing = [
        (name, each) for name, each in facts.items() if not (Path(arrays) / f"{name}.npy").is_file()
    ]
    if not missing:
        return
    Path(arrays).mkdir(parents=True, exist_ok=True)
    write = functools.partial(write_array, Path(videos).absolute(), Path(arrays).absolute(), side)
    with workers.progress_bar("decoding videos", len(missing)) as progress:
        for _, outcome in workers.each(write, missing, processes):
            if isinstance(outcome, UserError):
                raise outcome
            progress(1)
