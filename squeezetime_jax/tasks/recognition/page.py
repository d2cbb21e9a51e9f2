"""The page of an evaluation: what is confused with what, and which mistakes were made for sure."""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from squeezetime_jax.data.sources import Record
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.evaluation import pictures
from squeezetime_jax.evaluation.metrics import Calibration
from squeezetime_jax.evaluation.pictures import Section
from squeezetime_jax.files import write_whole
from squeezetime_jax.tasks.recognition.scores import VideoScores

_CLASSES = 20  # of the confusion matrix
_BARS = 40  # classes of the bar chart
_PAIRS = 15  # of the table of confused classes
_MISTAKES = 12
_FRAMES, _FRAME_SIDE = 8, 160


def write_page(scores: VideoScores, folder: Path) -> Path:
    """Write `report.html`, which contains its pictures, and the pictures beside it.

    Args:
      scores: of the test videos.
      folder: made if absent.

    Returns:
      The page.

    Raises:
      UserError: a file cannot be written.
    """
    numbers, videos = scores.numbers(), len(scores.labels)
    headline = (
        f"{100 * numbers['top1']:.1f} % of {count(videos, 'video')} recognised;"
        f" {100 * numbers['top5']:.1f} % among the best five."
    )
    sections = [_summary(scores), *_confusion(scores, folder), _reliability(scores, folder)]
    sections += [_classes(scores, folder), *_mistakes(scores, folder)]
    return pictures.write_page(folder / "report.html", "Evaluation", headline, sections)


def _summary(scores: VideoScores) -> Section:
    numbers = scores.to_json()
    clips = f"{numbers['views']} views of {numbers['crop_size']} pixels, frames {numbers['frames']}"
    rows = [
        (name, f"{100 * numbers[key]:.2f} %")
        for name, key in (("top-1", "top1"), ("top-5", "top5"), ("mean class", "mean_class"))
    ]
    rows += [("videos", str(numbers["videos"])), ("unreadable, left out", str(numbers["skipped"]))]
    return Section("Accuracy", f"Clips x crops: {clips}; the mean of the softmax.", rows=rows)


def _confusion(scores: VideoScores, folder: Path) -> list[Section]:
    confusion, names = scores.confusion(), _names(scores)
    wrong = confusion - np.diag(np.diag(confusion))
    if not wrong.any():
        return []
    chosen = most_confused(confusion)
    figure = pictures.draw_confusion(
        confusion[np.ix_(chosen, chosen)], [names[k] for k in chosen], confusion.sum(axis=1)[chosen]
    )
    picture = pictures.save_figure(figure, folder / "confusion.png")
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(wrong)) for place in order]
    rows = [
        (f"{names[true]} taken for {names[other]}", f"{wrong[true, other]} of {total}")
        for true, other in pairs
        if wrong[true, other]
        for total in [confusion[true].sum()]
    ]
    which = f"The {len(chosen)} classes" if len(chosen) < len(names) else "All classes, those"
    text = f"{which} that are confused most often. A row is a true class, in shares of its videos."
    if len(chosen) == len(names):
        text = "A row is a true class, in shares of its videos."
    return [
        Section("What is confused with what", text, picture),
        Section("The most frequent mistakes", rows=rows, is_part=True),
    ]


def most_confused(confusion: Int[np.ndarray, "classes classes"]) -> list[int]:
    """The classes with the most mistakes, theirs and of others for them, in ascending order."""
    if len(confusion) <= _CLASSES:
        return list(range(len(confusion)))
    wrong = confusion - np.diag(np.diag(confusion))
    mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
    order = np.argsort(-mistakes, kind="stable")[:_CLASSES]
    return sorted(int(k) for k in order if mistakes[k])


def _reliability(scores: VideoScores, folder: Path) -> Section:
    calibration = Calibration.of(scores.scores, scores.labels)
    picture = pictures.save_figure(
        pictures.draw_reliability(calibration), folder / "reliability.png"
    )
    text = (
        "Whether the probabilities can be believed: of the videos whose best class has a"
        " probability of 80 %, 80 % should be right. Bars below the line are too sure, bars above"
        " it not sure enough. The expected calibration error is the mean distance to the line."
    )
    return Section("Reliability", text, picture)


def _classes(scores: VideoScores, folder: Path) -> Section:
    names, rows = _names(scores), scores.accuracy.per_class()
    shown = [(names[k], videos, share) for k, videos, share in rows[:_BARS]]
    picture = pictures.save_figure(pictures.draw_classes(shown), folder / "classes.png")
    text = "From the worst to the best."
    if len(rows) > len(shown):
        text = f"The {len(shown)} worst of {len(rows)} classes; the command prints all of them."
    return Section("Accuracy of each class", text, picture)


def mistakes(
    scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " wrong"]:
    """Rows whose best class is wrong, the most confident first."""
    best = scores.argmax(axis=1)
    order = np.argsort(-scores.max(axis=1), kind="stable")
    return order[(best != labels)[order]]


def _mistakes(scores: VideoScores, folder: Path) -> list[Section]:
    rows = mistakes(scores.scores, scores.labels)
    if not len(rows):
        return [Section("Mistakes", "There are none.")]
    names = _names(scores)
    text = (
        f"{count(len(rows), 'mistake')} in {count(len(scores.labels), 'video')}; here are those"
        " with the highest probability. Some of them may be wrong labels."
    )
    sections = [Section("The most confident mistakes", text)]
    for number, row in enumerate(rows[:_MISTAKES], 1):
        record = scores.source[int(scores.video_ids[row])]
        label, best = int(scores.labels[row]), int(scores.scores[row].argmax())
        title = (
            f"{number}. {names[best]} ({100 * scores.scores[row, best]:.1f} %); labelled"
            f" {names[label]} ({100 * scores.scores[row, label]:.1f} %)"
        )
        figure = pictures.draw_strip(*_frames(record))
        picture = pictures.save_figure(figure, folder / f"mistake{number}.png")
        links = [(record.name, _address(record, folder, number))]
        sections.append(Section(title, picture=picture, links=links, is_part=True))
    return sections


def _frames(record: Record) -> tuple[UInt8[np.ndarray, "t h w 3"], Sequence[str]]:
    """Frames from the whole video, and their numbers."""
    with record.open() as video:
        last = video.num_frames - 1
        numbers = np.unique(np.linspace(0, last, _FRAMES).round().astype(int))
        return video.frames(numbers, short_side=_FRAME_SIDE), [f"frame {k}" for k in numbers]


def _address(record: Record, folder: Path, number: int) -> str:
    """A link from the page to the video; one that is in a shard is written beside the page."""
    path = record.video
    if isinstance(path, bytes):
        path = folder / f"mistake{number}.mp4"
        assert isinstance(record.video, bytes)
        write_whole(path, record.video)
    if not isinstance(path, Path):  # frames of a shard have no file
        return f"mistake{number}.png"
    try:
        relative = os.path.relpath(path.resolve(), folder.resolve())
    except ValueError as error:  # on another drive
        raise UserError(f"{folder}: {error}") from error
    return urllib.parse.quote(Path(relative).as_posix())


def _names(scores: VideoScores) -> list[str]:
    known = scores.class_names
    return list(known) if known else [f"class {k}" for k in range(scores.scores.shape[1])]
