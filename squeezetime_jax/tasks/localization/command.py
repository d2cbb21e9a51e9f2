"""`squeezetime localize`: what happens when in a video."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.tasks.localization import frames, results
from squeezetime_jax.tasks.localization.annotations import SAMPLE_RATE
from squeezetime_jax.tasks.localization.decoding import Detection
from squeezetime_jax.tasks.localization.experiment import to_json
from squeezetime_jax.tasks.localization.inference import STAGES, Finder, Found
from squeezetime_jax.tasks.localization.store import load_localizer


def localize_video(
    video: str,
    checkpoint: str,
    *,
    count: int = 20,
    as_json: bool = False,
    save: Path | None = None,
) -> int:
    """Find the segments of one video and print them.

    Args:
      video: the file.
      checkpoint: of a localiser.
      count: most segments to print and to draw, the surest ones, in the order of their starts.
      as_json: all of them as one JSON object in ActivityNet's format instead.
      save: picture: a filmstrip, and below it a timeline.

    Returns:
      The exit status.

    Raises:
      UserError: the video or the checkpoint cannot be read, or the picture not be written.
    """
    path = Path(video)
    frames.check_video(path)
    use_compilation_cache()
    stored = load_localizer(checkpoint)
    finder = Finder(stored.model, stored.inference)
    strip = _Strip()
    found = finder.find(strip.watch(frames.stream(path, stored.model.window.stored_side)))
    seconds = found.num_frames / SAMPLE_RATE
    detections = to_json(inside(found.detections, seconds), stored.labels)
    best = sorted(detections, key=lambda each: -each["score"])[:count]
    best.sort(key=lambda each: each["segment"])
    if as_json:
        print(json.dumps(results.detections_file({path.stem: detections})))
    else:
        print(_table(best))
        print(_told(path, found, len(detections)), file=sys.stderr)
    if save is not None:
        from squeezetime_jax.tasks.localization import (
            pictures,  # Matplotlib takes a second to import
        )

        figure = pictures.draw_timeline(path.name, *strip.frames(pictures.STRIP), seconds, best)
        print(f"wrote {pictures.save_figure(figure, save)}", file=sys.stderr)
    return 0


def inside(detections: list[Detection], seconds: float) -> list[Detection]:
    """What lies in a video of that length, cut at its end.

    The reference leaves segments in the padding of a window that is longer than its video; tests
    follow it, but nobody wants to look there.
    """
    return [d._replace(end=min(d.end, seconds)) for d in detections if d.start < seconds]


class _Strip:
    """Keeps a few frames of a video, evenly over it, however long it turns out to be."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, np.ndarray]] = []
        self._every = 1

    def watch(self, source: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same frames."""
        for number, frame in enumerate(source):
            if number % self._every == 0:
                self._kept.append((number, frame))
                if len(self._kept) == 128:  # thin out: half of them, twice as far apart
                    self._kept, self._every = self._kept[::2], 2 * self._every
            yield frame

    def frames(self, count: int) -> tuple[np.ndarray, list[float]]:
        """Some of the frames, and when they were, in seconds."""
        places = np.linspace(0, len(self._kept) - 1, min(count, len(self._kept))).round()
        chosen = [self._kept[int(place)] for place in places]
        return np.stack([f for _, f in chosen]), [n / SAMPLE_RATE for n, _ in chosen]


def _table(detections: list[dict[str, Any]]) -> str:
    lines = ["   start      end    score  label"]
    for each in detections:
        start, end = each["segment"]
        lines.append(f"{start:8.1f} {end:8.1f} {100 * each['score']:7.2f} %  {each['label']}")
    return "\n".join(lines)


def _told(path: Path, found: Found, total: int) -> str:
    parts = ", ".join(f"{stage} {found.seconds[stage]:.2f}" for stage in STAGES)
    return (
        f"{path}: {found.num_frames / SAMPLE_RATE:.1f} s, {found.num_windows} windows,"
        f" {found.num_clips} clips, {total} detections in all; seconds: {parts}"
    )
