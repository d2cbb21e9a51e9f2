"""`squeezetime localize`: when which action happens in a video, as a table and a timeline."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.annotations import SAMPLE_RATE, detections_file
from squeezetime_jax.tasks.localization.dataset import Image8, stream
from squeezetime_jax.tasks.localization.inference import (
    STAGES,
    Detection,
    Finder,
    Found,
    to_json,
)
from squeezetime_jax.tasks.localization.model import load_localizer

_COLOURS = ("#44719c", "#2a7f4f", "#b5453a", "#8a6d3b", "#6a4c93", "#3b8a8a", "#a04a7d", "#5b5b5b")
_NUM_SHOWN = 16  # frames of the filmstrip


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
      count: number of segments to print and to draw: those of the highest scores, by their starts.
      as_json: all of them as one JSON object in ActivityNet's format instead.
      save: picture of a filmstrip and a timeline.

    Returns:
      The exit status.

    Raises:
      UserError: the video or the checkpoint cannot be read, or the picture not be written.
    """
    path = Path(video)
    if not path.is_file():  # before the network takes its seconds
        raise UserError(f"{path}: no such file; check the path")
    use_compilation_cache()
    stored = load_localizer(checkpoint)
    finder = Finder(stored.model, stored.inference)
    strip = _Strip()
    found = finder.find(strip.watch(stream(path, stored.model.window.stored_side)))
    seconds = found.num_frames / SAMPLE_RATE
    detections = to_json(inside(found.detections, seconds), stored.labels)
    best = sorted(detections, key=lambda each: -each["score"])[:count]
    best.sort(key=lambda each: each["segment"])
    if as_json:
        print(json.dumps(detections_file({path.stem: detections})))
    else:
        print("   start      end    score  label")
        for each in best:
            start, end = each["segment"]
            print(f"{start:8.1f} {end:8.1f} {100 * each['score']:7.2f} %  {each['label']}")
        print(_summary(path, found, len(detections)), file=sys.stderr)
    if save is not None:
        from squeezetime_jax.evaluation.pictures import save_figure

        figure = draw_timeline(path.name, *strip.frames(_NUM_SHOWN), seconds, best)
        print(f"wrote {save_figure(figure, save)}", file=sys.stderr)
    return 0


def inside(detections: list[Detection], seconds: float) -> list[Detection]:
    """The detections within a video of that length, cut at its end.

    The reference also leaves segments in the padding of a window that is longer than its video;
    evaluation follows it, but they are of no use to a person.
    """
    return [d._replace(end=min(d.end, seconds)) for d in detections if d.start < seconds]


def _summary(path: Path, found: Found, count: int) -> str:
    cost = found.cost
    stages = ", ".join(f"{stage} {cost[stage]:.2f} s" for stage in STAGES)
    return (
        f"{path}: {found.num_frames / SAMPLE_RATE:.1f} s of video; windows: {cost['windows']},"
        f" clips: {cost['clips']}, detections: {count}; time: {stages}"
    )


class _Strip:
    """Keeps a few frames of a video, evenly spaced, whatever its length turns out to be."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, np.ndarray]] = []
        self._every = 1

    def watch(self, source: Iterable[Image8]) -> Iterator[Image8]:
        """The same frames."""
        for number, frame in enumerate(source):
            if number % self._every == 0:
                self._kept.append((number, frame))
                if len(self._kept) == 128:  # keep every second one from now on
                    self._kept, self._every = self._kept[::2], 2 * self._every
            yield frame

    def frames(self, count: int) -> tuple[UInt8[np.ndarray, "n h w 3"], list[float]]:
        """Some of the frames, and their times in seconds."""
        places = np.linspace(0, len(self._kept) - 1, min(count, len(self._kept))).round()
        chosen = [self._kept[int(place)] for place in places]
        return np.stack([f for _, f in chosen]), [n / SAMPLE_RATE for n, _ in chosen]


def draw_timeline(
    title: str,
    strip: UInt8[np.ndarray, "n h w 3"],
    times: Sequence[float],
    seconds: float,
    detections: Sequence[dict[str, Any]],
) -> Any:
    """A Matplotlib figure: frames of a video, and below them its detections, a row per class.

    Args:
      title: such as the video's name.
      strip: frames, evenly over the video.
      times: of the frames, in seconds.
      seconds: the video's length.
      detections: `{"label", "score", "segment"}`; the higher the score, the more opaque.
    """
    from squeezetime_jax.evaluation.pictures import draw_filmstrip, new_figure

    labels = list(dict.fromkeys(each["label"] for each in detections))
    height = 0.34 * max(len(labels), 1)
    figure = new_figure(13.0, 2.6 + height)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(1.3, 1.1 + height)))
    above.suptitle(title, fontsize=12)
    panels = np.atleast_1d(above.subplots(1, len(strip)))
    draw_filmstrip(panels, strip)
    for panel, time in zip(panels, times, strict=True):
        panel.set_xlabel(f"{time:.0f} s", fontsize=7, labelpad=2)
    axes = below.subplots()
    best = max((each["score"] for each in detections), default=1.0)
    for each in detections:
        start, end = each["segment"]
        row = labels.index(each["label"])
        opacity = 0.25 + 0.75 * each["score"] / best
        colour = _COLOURS[row % len(_COLOURS)]
        axes.barh(row, end - start, left=start, height=0.7, color=colour, alpha=opacity)
        text = f"{100 * each['score']:.0f}"
        style = {"ha": "center", "va": "center", "color": "white", "fontsize": 8}
        axes.text((start + end) / 2, row, text, **style)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set(xlim=(0, seconds), xlabel="seconds")
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
