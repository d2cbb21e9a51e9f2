"""Which videos of a list training or evaluation would trip over, and why."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from squeezetime_jax.data import workers
from squeezetime_jax.data.video import Video

# A clip has 16 frames: a shorter video repeats some within one clip.
MIN_FRAMES = 16
# A network input of 224 enlarges such frames more than threefold.
MIN_SIDE = 64


def check(
    paths: Sequence[str],
    root: Path,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[str, str]]:
    """Decode every video and tell what is wrong with which.

    Args:
      paths: of the videos, relative to the root.
      root: the folder that the paths are relative to.
      processes: how many videos at once; by default one per core.
      progress: called with the number of videos done since the last call.

    Returns:
      (path, reason) of each odd video, in the order of the list.
    """
    found = []
    for path, problems in workers.each(functools.partial(_problems, root), paths, processes):
        reason = "; ".join(problems) if isinstance(problems, list) else str(problems)
        if reason:
            found.append((path, reason.removeprefix(f"{path}: ")))
        progress(1)
    return found


def _problems(root: Path, path: str) -> list[str]:
    with Video(root / path, path) as video:
        return list(_describe(video))


def _describe(video: Video) -> Iterator[str]:
    info = video.info
    broken = video.count_broken()
    if broken:
        yield f"{broken} of {info.num_frames} frames cannot be decoded without errors"
    if video.lack:
        yield f"truncated: {video.lack}"
    if info.num_frames < MIN_FRAMES:
        yield f"only {info.num_frames} frames, a clip takes {MIN_FRAMES}"
    if min(info.width, info.height) < MIN_SIDE:
        yield f"frames of {info.width} x {info.height}, a side under {MIN_SIDE} pixels"
