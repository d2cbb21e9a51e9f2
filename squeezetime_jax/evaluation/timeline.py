"""The scores of a long video over time: as numbers, as a picture, and on the video itself."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import av
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from squeezetime_jax.data import transforms
from squeezetime_jax.data.video import Video, timed_stream
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import stream
from squeezetime_jax.evaluation.reading import Reading, Windows, in_batches
from squeezetime_jax.evaluation.views import RuntimeScorer, Scorer
from squeezetime_jax.files import whole, write_whole
from squeezetime_jax.machine import available_cpus

_ROWS = 8  # classes of the picture
_STRIP, _STRIP_SIDE = 10, 120  # frames above it, and their shorter side
_DRAWN_SIDES = 240, 480  # smallest and largest shorter side of the drawn video
_LINES = 3  # classes written on it
SUFFIXES = (".json", ".csv", ".png", ".mp4")


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The scores of a video's windows.

    Attributes:
      path: of the video.
      starts: (windows,), seconds from the first frame.
      span: length of a window, in seconds.
      scores: (windows, classes), each summing to 1.
      names: of the classes; None: unknown.
    """

    path: str
    starts: Float[np.ndarray, " windows"]
    span: float
    scores: Float[np.ndarray, "windows classes"]
    names: Sequence[str] | None

    def name(self, label: int) -> str:
        """The name of a class."""
        return self.names[label] if self.names else f"class {label}"

    def best(self, window: int, count: int) -> list[int]:
        """The most probable classes of a window, in falling order."""
        return np.argsort(-self.scores[window], kind="stable")[:count].tolist()

    def nearest(self, seconds: float) -> int:
        """The window whose middle is nearest to a time."""
        return int(np.argmin(np.abs(self.starts + self.span / 2 - seconds)))


@runtime_checkable
class Printer(Protocol):
    """Prints scores as they come.

    Attributes:
      names: of the classes; None: unknown.
      count: classes of each window.
    """

    names: list[str] | None
    count: int

    def note(self, text: str) -> None:
        """Print a remark for people."""

    def moment(self, location: str, moment: stream.Moment) -> None:
        """Print the best classes of a window."""

    def error(self, reading: Reading) -> None:
        """Print why a video cannot be read."""


def predict_timelines(
    scorer: Scorer | RuntimeScorer,
    windows: Iterable[Windows | Reading],
    printer: Printer,
    target: Path | None,
    *,
    several: bool,
) -> int:
    """Score the windows of videos, print them as they come, and write the timelines.

    Args:
      scorer: the network.
      windows: as `reading.read_windows` gives them.
      printer: of the scores; times are the middles of the windows.
      target: as `save` takes it; None: nothing is written.
      several: whether there are several videos.

    Returns:
      The exit status: 1 if a video could not be read.

    Raises:
      UserError: a file cannot be written, or several videos would be one file.
    """
    if target and several and target.suffix.lower() in SUFFIXES:
        raise UserError(f"--save {target}: one file for several videos; give a folder")
    parts: dict[str, list[tuple[float, np.ndarray]]] = {}
    failed = 0

    def rows() -> Iterator[tuple[tuple[Windows, int], np.ndarray]]:
        nonlocal failed
        for found in windows:
            if isinstance(found, Windows):
                for number, places in enumerate(found.places):
                    yield (found, number), found.frames[places][None]
            else:
                failed += 1
                printer.error(found)

    for (part, number), scores in in_batches(rows(), scorer.scores, scorer.videos_at_once(1)):
        start = float(part.seconds[number])
        moment = stream.Moment(part.first + number, start + part.span / 2, scores)
        printer.moment(part.path, moment)
        parts.setdefault(part.path, []).append((start, scores))
        if target and len(parts[part.path]) == part.total:
            starts, found = zip(*parts.pop(part.path), strict=True)
            values = np.array(starts), part.span, np.stack(found), printer.names
            for file in save(Timeline(part.path, *values), target, printer.count):
                printer.note(f"wrote {file}")
    return 1 if failed else 0


def save(timeline: Timeline, target: Path, count: int) -> list[Path]:
    """Write a timeline as a file of `SUFFIXES`; or all four into a folder.

    Args:
      timeline: the scores.
      target: a file, or a folder.
      count: classes of each window.

    Returns:
      The files.

    Raises:
      UserError: a file cannot be written.
    """
    stem = Path(timeline.path).stem
    writers = {
        ".json": lambda file: write_json(file, timeline, count),
        ".csv": lambda file: write_csv(file, timeline, count),
        ".png": lambda file: write_picture(file, timeline),
        ".mp4": lambda file: write_video(file, timeline),
    }
    suffix = target.suffix.lower()
    files = [target] if suffix in writers else [target / (stem + each) for each in SUFFIXES]
    for file in files:
        if file.resolve() == Path(timeline.path).resolve():
            raise UserError(f"--save {target}: is the video itself; choose another name")
        writers[file.suffix.lower()](file)
    return files


def write_json(file: Path, timeline: Timeline, count: int) -> None:
    """One object: `path`, and for each of `windows` its `start`, `end` and `top` classes."""
    windows = [
        {"start": start, "end": end, "top": [_entry(timeline, window, k) for k in labels]}
        for window, start, end, labels in _rows(timeline, count)
    ]
    write_whole(file, json.dumps({"path": timeline.path, "windows": windows}, indent=1) + "\n")


def write_csv(file: Path, timeline: Timeline, count: int) -> None:
    """A line for each of the best classes of each window."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("start", "end", "rank", "class", "label", "score"))
    for window, start, end, labels in _rows(timeline, count):
        for rank, label in enumerate(labels, 1):
            score = round(float(timeline.scores[window, label]), 6)
            writer.writerow((start, end, rank, label, timeline.name(label), score))
    write_whole(file, text.getvalue())


def _rows(timeline: Timeline, count: int) -> list[tuple[int, float, float, list[int]]]:
    """Number, start, end and best classes of each window."""
    return [
        (
            window,
            round(float(start), 3),
            round(float(start) + timeline.span, 3),
            timeline.best(window, count),
        )
        for window, start in enumerate(timeline.starts)
    ]


def _entry(timeline: Timeline, window: int, label: int) -> dict[str, Any]:
    name = timeline.names[label] if timeline.names else None
    return {"index": label, "label": name, "score": float(timeline.scores[window, label])}


def write_picture(file: Path, timeline: Timeline) -> None:
    """Frames of the video above the probabilities of the classes that come first anywhere."""
    from squeezetime_jax.evaluation import pictures  # Matplotlib takes a second to import

    middles = timeline.starts + timeline.span / 2
    step = float(np.median(np.diff(middles))) if len(middles) > 1 else timeline.span
    left, right = float(middles[0]) - step / 2, float(middles[-1]) + step / 2
    labels = _leading(timeline)
    figure = pictures.new_figure(13.0, 2.6 + 0.32 * len(labels))
    strip, table = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": (1.1, 0.32 * len(labels))}
    )
    places = left + (np.arange(_STRIP) + 0.5) * (right - left) / _STRIP
    for place, frame in zip(places, _frames_at(timeline.path, places), strict=True):
        half = (right - left) / _STRIP / 2 * 0.97
        strip.imshow(frame, extent=(place - half, place + half, 0, 1), aspect="auto")
    strip.set(ylim=(0, 1), yticks=[], title=Path(timeline.path).name)
    strip.tick_params(bottom=False, labelbottom=False)
    strip.spines[:].set_visible(False)
    extent = (left, right, len(labels) - 0.5, -0.5)
    shown = timeline.scores[:, labels].T
    image = table.imshow(
        shown, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="nearest"
    )
    table.set_yticks(range(len(labels)), [timeline.name(k)[:28] for k in labels])
    table.set(xlim=(left, right), xlabel="seconds (middle of the window)")
    figure.colorbar(image, ax=[strip, table], label="probability", shrink=0.8)
    pictures.save_figure(figure, file)


def _leading(timeline: Timeline) -> list[int]:
    """The classes of the picture, in the order in which they come first; at most `_ROWS`."""
    first = timeline.scores.argmax(axis=1)
    labels, seen, counts = np.unique(first, return_index=True, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_ROWS]
    return labels[most[np.argsort(seen[most])]].tolist()


def _frames_at(path: str, seconds: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w 3"]:
    """The frames that are shown at these times."""
    with Video(path, threads=available_cpus()) as video:
        numbers = np.searchsorted(video.times, seconds, "right") - 1
        return video.frames(np.maximum(numbers, 0), short_side=_STRIP_SIDE)


def write_video(file: Path, timeline: Timeline) -> None:
    """The video with the best classes of the nearest window, and a line of the time."""
    with Video(timeline.path) as video:
        times = video.times
    last = float(times[-1]) or 1.0
    rate = Fraction((len(times) - 1) / last if len(times) > 1 else 25).limit_denominator(1001)
    with whole(file) as part, av.open(str(part), "w", format="mp4") as container:
        encoder: av.VideoStream | None = None
        previous = -1
        for seconds, frame in timed_stream(timeline.path, threads=available_cpus()):
            picture = _drawn(frame, timeline, seconds, seconds / last)
            if encoder is None:
                encoder = container.add_stream("libx264", rate=rate, options={"crf": "20"})
                encoder.height, encoder.width = picture.shape[:2]
                encoder.pix_fmt = "yuv420p"
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            # Frames of a variable rate keep their time, to that of the nearest even one.
            previous = max(previous + 1, round(seconds * rate))
            image.pts, image.time_base = previous, 1 / rate
            container.mux(encoder.encode(image))
        if encoder is not None:
            container.mux(encoder.encode(None))


def _drawn(
    frame: UInt8[np.ndarray, "h w 3"], timeline: Timeline, seconds: float, share: float
) -> UInt8[np.ndarray, "h2 w2 3"]:
    side = int(np.clip(min(frame.shape[:2]), *_DRAWN_SIDES))
    small = transforms.resize_short_side(frame, side)
    height, width = (length // 2 * 2 for length in small.shape[:2])  # H.264 needs even sides
    image = Image.fromarray(np.ascontiguousarray(small[:height, :width]))
    draw = ImageDraw.Draw(image, "RGBA")
    line = height // 16
    font = ImageFont.load_default(size=0.8 * line)
    window = timeline.nearest(seconds)
    labels = timeline.best(window, min(_LINES, timeline.scores.shape[1]))
    draw.rectangle((0, 0, width, line * (len(labels) + 0.5)), fill=(0, 0, 0, 150))
    for row, label in enumerate(labels):
        score, top = float(timeline.scores[window, label]), line * (row + 0.2)
        bar = (0.3 * line, top + 0.1 * line, 0.3 * line + score * 4 * line, top + 0.9 * line)
        draw.rectangle(bar, fill=(90, 170, 255, 230))
        text = f"{100 * score:.0f} %  {timeline.name(label)}"
        draw.text((4.8 * line, top), text, fill=(255, 255, 255, 255), font=font)
    draw.rectangle((0, height - 4, width * share, height), fill=(90, 170, 255, 230))
    return np.asarray(image)
