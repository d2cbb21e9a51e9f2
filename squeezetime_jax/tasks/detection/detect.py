"""What the persons in a video do: `squeezetime detect`."""

import dataclasses
import importlib
import importlib.resources
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Float64, Int64, UInt8

from squeezetime_jax.checkpoint.store import read_labels
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data import transforms
from squeezetime_jax.data.embedded import people
from squeezetime_jax.data.video import Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.annotations import read_actions, read_boxes
from squeezetime_jax.tasks.detection.boxes import to_pixels
from squeezetime_jax.tasks.detection.config import PEOPLE, Data
from squeezetime_jax.tasks.detection.infer import Scorer
from squeezetime_jax.tasks.detection.weights import load_detector
from squeezetime_jax.training import devices

FindPersons = Callable[[np.ndarray], Any]
"""A person detector: an RGB frame, uint8 (h, w, 3), to boxes (n, 4) in its pixels."""

WHOLE = "whole"


@dataclasses.dataclass(frozen=True)
class Choices:
    """How to look at a video.

    Attributes:
      checkpoint: anything that `load_detector` takes.
      boxes: a csv file of boxes; "whole": the whole frame every second; or a person detector to be
        called every second, `package.module:function`.
      labels: list of actions; None: the checkpoint's own, or AVA's.
      begins_at: the second that the video's first frame shows, for a file of boxes; None: as the
        checkpoint was trained, or 0.
      score: what an action's score has to exceed to be told.
    """

    checkpoint: str
    boxes: str = WHOLE
    labels: str | None = None
    begins_at: float | None = None
    score: float = 0.1


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is seen at one second.

    Attributes:
      second: as the file of boxes counts.
      boxes: x1, y1, x2, y2 as shares of the frame.
      scores: each action's probability in each box; column = action id.
    """

    second: float
    boxes: Float64[np.ndarray, "k 4"]
    scores: Float[np.ndarray, "k classes"]

    def told(self, names: Mapping[int, str], score: float) -> list[list[dict[str, Any]]]:
        """For each box its actions above a score, the likeliest first."""
        told = []
        for row in self.scores:
            order = [int(k) for k in np.argsort(-row, kind="stable") if k in names]
            told.append(
                [
                    {"id": k, "label": names[k], "score": float(row[k])}
                    for k in order
                    if row[k] > score
                ]
            )
        return told


def detect_video(path: str, choices: Choices, *, as_json: bool, save: Path | None) -> int:
    """Say what persons do at the seconds of a video.

    Args:
      path: the video.
      choices: how to look.
      as_json: a JSON object a line, for programs.
      save: an .mp4 to write with boxes and actions drawn over the frames, or a folder for a picture
        of every second.

    Returns:
      The exit status.

    Raises:
      UserError: the video, the checkpoint or the boxes are not what they should be.
    """
    use_compilation_cache()
    if save is not None and save.suffix not in (".mp4", ""):
        raise UserError(f"{save}: wanted a name ending in .mp4, or a folder for pictures")
    names = action_names(choices)
    seen = look(path, choices)
    for moment in seen:
        told = moment.told(names, choices.score)
        if as_json:
            boxes = [
                {"box": box, "actions": actions}
                for box, actions in zip(moment.boxes.tolist(), told, strict=True)
            ]
            print(json.dumps({"video": path, "second": moment.second, "boxes": boxes}))
            continue
        for box, actions in zip(moment.boxes, told, strict=True):
            place = ",".join(f"{value:.3f}" for value in box)
            what = ", ".join(f"{a['label']} {100 * a['score']:.0f} %" for a in actions)
            print(f"{moment.second:8g} s  [{place}]  {what or '-'}")
    if save is not None:
        from squeezetime_jax.tasks.detection.draw import write_pictures, write_video

        write = write_video if save.suffix == ".mp4" else write_pictures
        write(save, path, seen, names, choices.score, begins_at_of(choices))
    return 0


def look(path: str, choices: Choices) -> list[Seen]:
    """Score the boxes of a video.

    Raises:
      UserError: the video, the checkpoint or the boxes are not what they should be.
    """
    data = sampling_data(choices.checkpoint)
    begins_at = begins_at_of(choices)
    model = load_detector(choices.checkpoint)
    scorer = Scorer(model, devices.data_mesh())
    sampling, size = data.sampling(model.config.num_frames), data.crop_size
    seen = []
    with Video(path) as video:
        fps = video.info.fps
        if fps <= 0:
            raise UserError(f"{path}: does not tell its frames per second; convert it to mp4")
        seconds = video.num_frames / fps
        for second, boxes in _boxes(path, choices, video, begins_at, seconds, fps):
            middle = sampling.num_frames // 2
            steps = sampling.frame_interval * (np.arange(sampling.num_frames) - middle)
            times = second - begins_at + (steps + sampling.frame_offset) / sampling.fps
            frames = video.frames(_indices(times, fps, video.num_frames))
            clip = transforms.resize(frames, size, size)
            count = max(4, 1 << (len(boxes) - 1).bit_length())  # few programs
            pixels = np.zeros((1, count, 4), np.float32)
            pixels[0, : len(boxes)] = to_pixels(boxes, size, size)
            rows = devices.data_mesh().size  # every device takes a clip
            clips = np.repeat(clip[None], rows, axis=0)
            scores = scorer.scores(clips, np.repeat(pixels, rows, axis=0))[0, : len(boxes)]
            seen.append(Seen(second, boxes, scores))
    return seen


def _indices(times: np.ndarray, fps: float, num_frames: int) -> Int64[np.ndarray, " t"]:
    nearest = np.floor(times * fps + 0.5).astype(np.int64)
    return np.clip(nearest, 0, num_frames - 1)


def _boxes(
    path: str, choices: Choices, video: Video, begins_at: float, seconds: float, fps: float
) -> list[tuple[float, Float64[np.ndarray, "k 4"]]]:
    """Seconds with their boxes."""
    every = [begins_at + k + min(1.0, seconds) / 2 for k in range(max(1, math.floor(seconds)))]
    if choices.boxes == WHOLE:
        whole = np.array([[0.0, 0.0, 1.0, 1.0]])
        return [(second, whole) for second in every]
    if ":" in choices.boxes and not Path(choices.boxes).exists():
        find = plug_in(choices.boxes)
        found = []
        for second in every:
            index = _indices(np.array([second - begins_at]), fps, video.num_frames)
            boxes = _found(choices.boxes, find, video.frames(index)[0])
            if len(boxes):
                found.append((second, boxes))
        return found
    return _from_file(path, choices.boxes, begins_at, seconds)


def _from_file(
    path: str, file: str, begins_at: float, seconds: float
) -> list[tuple[float, Float64[np.ndarray, "k 4"]]]:
    rows = read_boxes(file)
    stem = Path(path).stem
    found: dict[float, list[tuple[float, ...]]] = {}
    for number, box, line in zip(rows.frame, rows.boxes, rows.line, strict=True):
        video, second = rows.frames[number]
        if video != stem:
            continue
        if not begins_at <= second <= begins_at + seconds:
            raise UserError(
                f"{file}, line {line}: second {second}, but {path} shows {begins_at:g} to"
                f" {begins_at + seconds:g}; give --begins-at, the second of its first frame"
            )
        boxes = found.setdefault(float(second), [])
        if (values := tuple(box.tolist())) not in boxes:  # a person has a row for every action
            boxes.append(values)
    if not found:
        raise UserError(f"{file}: has no row of {stem}; wanted rows `{stem},second,x1,y1,x2,y2`")
    return [(second, np.array(found[second])) for second in sorted(found)]


def plug_in(name: str) -> FindPersons:
    """A person detector of the user's: `package.module:function`.

    Raises:
      UserError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--boxes {name}: {error}; wanted a csv file, `{WHOLE}`, or package.module:function"
        ) from None


def _found(
    name: str, find: FindPersons, frame: UInt8[np.ndarray, "h w 3"]
) -> Float64[np.ndarray, "k 4"]:
    boxes = np.asarray(find(frame), np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise UserError(f"--boxes {name}: gave {boxes.shape}, wanted finite (boxes, 4) in pixels")
    height, width = frame.shape[:2]
    return np.clip(boxes / [width, height, width, height], 0, 1)


def sampling_data(checkpoint: str) -> Data:
    """How clips were made in the run that a checkpoint is of; AVA's way for other weights."""
    path = epath.Path(checkpoint)
    for folder in (path, *list(path.parents)[:2]):
        file = folder / "config.json"
        if file.exists():
            try:
                fields = json.loads(file.read_text())["data"]
                known = {field.name for field in dataclasses.fields(Data)}
                kept = {k: v for k, v in fields.items() if k in known and k != "people"}
                return Data(**kept)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: damaged ({error}); wanted what training wrote") from None
    return Data()


def begins_at_of(choices: Choices) -> float:
    """The second that the video's first frame shows."""
    if choices.begins_at is not None:
        return choices.begins_at
    data = sampling_data(choices.checkpoint)
    return float(people.START) if data.train == PEOPLE else data.begins_at


def action_names(choices: Choices) -> dict[int, str]:
    """Action id -> name: of a list, of the checkpoint, or of AVA's 60 evaluated actions."""
    if choices.labels:
        return read_actions(choices.labels)
    labels = read_labels(choices.checkpoint)
    if labels:
        return {k: name for k, name in enumerate(labels) if k}
    file = importlib.resources.files("squeezetime_jax.tasks.detection") / "ava21_actions.txt"
    return read_actions(Path(str(file)))


def lines_of(actions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is written beside a box."""
    return [f"{action['label']} {100 * action['score']:.0f}%" for action in actions]
