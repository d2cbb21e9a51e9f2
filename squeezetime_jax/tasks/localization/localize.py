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
_NARROW = 0.03  # share of the timeline below which a segment has no room for its score


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

        figure = draw_timeline(path.name, strip.frames(_NUM_SHOWN), seconds, best)
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

    def frames(self, count: int) -> UInt8[np.ndarray, "n h w 3"]:
        """The middle frames of equal parts of the video."""
        number = min(count, len(self._kept))
        places = (np.arange(number) + 0.5) * len(self._kept) / number  # the middles of equal parts
        chosen = [self._kept[int(place)] for place in places]
        return np.stack([frame for _, frame in chosen])


def draw_timeline(
    title: str,
    strip: UInt8[np.ndarray, "n h w 3"],
    seconds: float,
    detections: Sequence[dict[str, Any]],
) -> Any:
    """A Matplotlib figure: frames of a video, and below them its detections, a row per class.

    Args:
      title: such as the video's name.
      strip: the middle frames of equal parts of the video.
      seconds: the video's length.
      detections: `{"label", "score", "segment"}`; the higher the score, the more opaque. Those of
        a class that overlap are in rows of their own.
    """
    from squeezetime_jax.evaluation.pictures import new_figure

    labels = list(dict.fromkeys(each["label"] for each in detections))
    rows = [(label, each) for label in labels for each in lanes(detections, label)]
    height, side = 0.3 * max(len(rows), 1), 11.0 / len(strip)  # of a row and a frame, in inches
    tall = side * strip.shape[1] / strip.shape[2]
    figure = new_figure(13.0, 1.2 + tall + height)
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(tall, height))
    above.set_title(title, fontsize=12)
    _draw_frames(above, strip, seconds)
    best = max((each["score"] for each in detections), default=1.0)
    for row, (label, lane) in enumerate(rows):
        colour = _COLOURS[labels.index(label) % len(_COLOURS)]
        for each in lane:
            start, end = each["segment"]
            opacity = 0.25 + 0.75 * each["score"] / best
            axes.barh(row, end - start, left=start, height=0.8, color=colour, alpha=opacity)
            if end - start > _NARROW * seconds:
                text = f"{100 * each['score']:.0f} %"
                style = {"ha": "center", "va": "center", "fontsize": 8}
                axes.text((start + end) / 2, row, text, color="white" if opacity > 0.6 else "0.2",
                          **style)  # fmt: skip
    first = [row for row in range(len(rows)) if row == 0 or rows[row][0] != rows[row - 1][0]]
    axes.set_yticks(first, [rows[row][0] for row in first], fontsize=9)
    axes.set(xlim=(0, seconds), xlabel="seconds")
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def lanes(detections: Sequence[dict[str, Any]], label: str) -> list[list[dict[str, Any]]]:
    """The detections of a class in as few rows as have no overlap, each by its start."""
    found: list[list[dict[str, Any]]] = []
    mine = [each for each in detections if each["label"] == label]
    for each in sorted(mine, key=lambda each: each["segment"]):
        free = (lane for lane in found if lane[-1]["segment"][1] <= each["segment"][0])
        lane = next(free, None)
        if lane is None:
            found.append([each])
        else:
            lane.append(each)
    return found


def _draw_frames(axes: Any, strip: UInt8[np.ndarray, "n h w 3"], seconds: float) -> None:
    """The middle frames of equal parts of a video, each over its part of the axis."""
    width = seconds / len(strip)
    for number, frame in enumerate(strip):
        place = ((number + 0.02) * width, (number + 0.98) * width, 0, 1)
        axes.imshow(frame, extent=place, aspect="auto")
    axes.set(ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False)
