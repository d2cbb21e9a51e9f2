"""`squeezetime detect`: what the persons in a video do, printed and drawn over its frames."""

import dataclasses
import importlib
import importlib.resources
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float, Float64, UInt8

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.store import read_labels
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data.batches import pad_rows
from squeezetime_jax.data.embedded import people
from squeezetime_jax.data.video import Video, stream
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole, write_whole
from squeezetime_jax.tasks.detection.annotations import read_actions, read_boxes
from squeezetime_jax.tasks.detection.config import PEOPLE, Data
from squeezetime_jax.tasks.detection.dataset import square_clip
from squeezetime_jax.tasks.detection.detector import holds_detector, load_detector
from squeezetime_jax.tasks.detection.frames import check_fps, nearest_indices
from squeezetime_jax.tasks.detection.task import predictor
from squeezetime_jax.training import devices

FindPersons = Callable[[np.ndarray], Any]
"""A person detector: an RGB frame, uint8 (h, w, 3), to boxes (n, 4) in its pixels."""

WHOLE = "whole"

_AT_ENDS = 1.0  # seconds for which boxes are shown before the first and after the last detection
_COLOURS = ((255, 196, 0), (0, 200, 255), (120, 255, 90), (255, 110, 180))
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MIN_SIDE = 480  # smaller frames are enlarged, so that the text is readable
_MAX_LINES = 3


@dataclasses.dataclass(frozen=True)
class Choices:
    """The options of the command.

    Attributes:
      checkpoint: any path that `load_detector` takes.
      boxes: a csv file of boxes; "whole": the whole frame every second; or a person detector that
        is called every second, `package.module:function`.
      labels: list of actions; None: the checkpoint's own, or AVA's.
      begins_at: the second that the first frame shows, for a file of boxes; None: as in the data
        that the checkpoint was trained on, or 0.
      score: an action is shown where its score exceeds this.
    """

    checkpoint: str
    boxes: str = WHOLE
    labels: str | None = None
    begins_at: float | None = None
    score: float = 0.1


@dataclasses.dataclass(frozen=True)
class Second:
    """The scored boxes at one second.

    Attributes:
      second: as the file of boxes counts.
      boxes: x1, y1, x2, y2 as shares of the frame.
      scores: each action's probability in each box; column = action id.
    """

    second: float
    boxes: Float64[np.ndarray, "k 4"]
    scores: Float[np.ndarray, "k classes"]

    def actions(self, names: Mapping[int, str], min_score: float) -> list[list[dict[str, Any]]]:
        """For each box its named actions above a score, the most likely first."""
        return [
            [
                {"id": k, "label": names[k], "score": float(row[k])}
                for k in np.argsort(-row, kind="stable").tolist()
                if k in names and row[k] > min_score
            ]
            for row in self.scores
        ]


def detect_video(path: str, choices: Choices, *, as_json: bool, save: Path | None) -> int:
    """Print what persons do at the seconds of a video.

    Args:
      path: the video.
      choices: the options.
      as_json: a JSON object per line.
      save: an .mp4 to write with boxes and actions drawn over the frames, or a folder for a picture
        of every second.

    Returns:
      The exit status.

    Raises:
      UserError: the video, the checkpoint or the boxes cannot be read.
    """
    use_compilation_cache()
    if save is not None and save.suffix not in (".mp4", ""):
        raise UserError(f"{save}: expected a name ending in .mp4, or a folder for pictures")
    found = detect(path, choices)
    names = action_names(choices)
    for second in found:
        actions = second.actions(names, choices.score)
        pairs = list(zip(second.boxes.tolist(), actions, strict=True))
        if as_json:
            boxes = [{"box": box, "actions": each} for box, each in pairs]
            print(json.dumps({"video": path, "second": second.second, "boxes": boxes}))
            continue
        for box, each in pairs:
            place = ",".join(f"{value:.3f}" for value in box)
            words = ", ".join(f"{a['label']} {100 * a['score']:.0f} %" for a in each)
            print(f"{second.second:8g} s  [{place}]  {words or '-'}")
    if save is not None:
        write = write_video if save.suffix == ".mp4" else write_pictures
        write(save, path, found, names, choices)
    return 0


def detect(path: str, choices: Choices) -> list[Second]:
    """Score the boxes of a video.

    Raises:
      UserError: the video, the checkpoint or the boxes cannot be read.
    """
    if not holds_detector(choices.checkpoint):
        raise CheckpointError(
            f"{choices.checkpoint}: not a detector; `squeezetime detect` needs one, such as a run"
            " of configs/ava21.py"
        )
    data, begins_at = training_data(choices.checkpoint), begins_at_of(choices)
    model = load_detector(choices.checkpoint)
    sampling = data.sampling(model.config.num_frames)
    mesh = Mesh(np.array(jax.local_devices()), (devices.DATA,))
    predict = predictor(model, mesh)
    found: list[Second] = []
    with Video(path) as video:
        fps = check_fps(path, video.info.fps)
        seconds = list(_boxes(path, choices, video, begins_at))
        for start in range(0, len(seconds), mesh.size):  # a clip for each device
            group = seconds[start : start + mesh.size]
            count = max(4, 1 << (max(len(boxes) for _, boxes in group) - 1).bit_length())
            clips, pixels = [], []
            for second, boxes in group:
                indices = nearest_indices(sampling.times(second - begins_at), fps)
                frames = video.frames(np.clip(indices, 0, video.num_frames - 1))
                clip, each = square_clip(frames, boxes, data.crop_size)
                clips.append(clip)
                pixels.append(pad_rows(each, count))  # a power of two: few different programs
            spare = [clips[-1]] * (mesh.size - len(group)), [pixels[-1]] * (mesh.size - len(group))
            scores = predict(np.stack(clips + spare[0]), np.stack(pixels + spare[1]))
            found += [
                Second(second, boxes, each[: len(boxes)])
                for (second, boxes), each in zip(group, np.asarray(scores), strict=False)
            ]
    return found


def _boxes(
    path: str, choices: Choices, video: Video, begins_at: float
) -> Iterator[tuple[float, Float64[np.ndarray, "k 4"]]]:
    """Seconds with their boxes."""
    fps = video.info.fps
    length = video.num_frames / fps
    if choices.boxes != WHOLE and (":" not in choices.boxes or Path(choices.boxes).exists()):
        yield from _from_file(path, choices.boxes, begins_at, begins_at + length)
        return
    find = None if choices.boxes == WHOLE else plug_in(choices.boxes)
    for number in range(max(1, math.floor(length))):
        moment = number + min(1.0, length) / 2
        boxes = np.array([[0.0, 0.0, 1.0, 1.0]])
        if find is not None:
            index = int(nearest_indices(np.array([moment]), fps)[0])
            frame = video.frames([min(index, video.num_frames - 1)])[0]
            boxes = _checked(choices.boxes, find(frame), frame)
        if len(boxes):
            yield begins_at + moment, boxes


def _from_file(
    path: str, file: str, first: float, last: float
) -> list[tuple[float, Float64[np.ndarray, "k 4"]]]:
    rows = read_boxes(file)
    name = Path(path).stem
    found: dict[float, dict[tuple[float, ...], None]] = {}
    for number, box in zip(rows.frame, rows.boxes, strict=True):
        video, second = rows.frames[number]
        if video != name:
            continue
        if not first <= second <= last:
            raise UserError(
                f"{file}: second {second} of {video} is outside {path}, which shows {first:g} to"
                f" {last:g}; give --begins-at, the second of its first frame"
            )
        # A person has a row for every action.
        found.setdefault(float(second), {})[tuple(box.tolist())] = None
    if not found:
        raise UserError(f"{file}: no row of {name}; expected rows `{name},second,x1,y1,x2,y2`")
    return [(second, np.array(list(found[second]))) for second in sorted(found)]


def plug_in(name: str) -> FindPersons:
    """The user's person detector: `package.module:function`.

    Raises:
      UserError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--boxes {name}: {error}; expected a csv file, `{WHOLE}`, or package.module:function"
        ) from None


def _checked(
    name: str, found: Any, frame: UInt8[np.ndarray, "h w 3"]
) -> Float64[np.ndarray, "k 4"]:
    """What a person detector returned, as shares of the frame."""
    boxes = np.asarray(found, np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise UserError(
            f"--boxes {name}: expected finite boxes of shape (n, 4) in pixels, got an array of"
            f" shape {boxes.shape}"
        )
    height, width = frame.shape[:2]
    return np.clip(boxes / [width, height, width, height], 0, 1)


def training_data(checkpoint: str) -> Data:
    """How clips were made in the run that a checkpoint belongs to; AVA's way for other weights.

    Raises:
      UserError: the run's config is damaged.
    """
    path = epath.Path(checkpoint)
    for folder in (path, *list(path.parents)[:2]):
        file = folder / "config.json"
        if file.exists():
            try:
                fields = json.loads(file.read_text())["data"]
                known = {field.name for field in dataclasses.fields(Data)}
                return Data(**{k: v for k, v in fields.items() if k in known and k != "people"})
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: not a config that training wrote ({error})") from None
    return Data()


def begins_at_of(choices: Choices) -> float:
    """The second that the video's first frame shows."""
    if choices.begins_at is not None:
        return choices.begins_at
    data = training_data(choices.checkpoint)
    return float(people.START) if data.train == PEOPLE else data.begins_at


def action_names(choices: Choices) -> dict[int, str]:
    """Action id -> name: of a list, of the checkpoint, or of AVA's 60 evaluated actions."""
    if choices.labels:
        return read_actions(choices.labels)
    labels = read_labels(choices.checkpoint)
    if labels:
        return {k: name for k, name in enumerate(labels) if k}
    file = importlib.resources.files("squeezetime_jax.tasks.detection") / "ava21_actions.txt"
    return read_actions(str(file))


def draw(
    frame: UInt8[np.ndarray, "h w 3"],
    boxes: Float64[np.ndarray, "k 4"],
    texts: Sequence[Sequence[str]],
) -> UInt8[np.ndarray, "fh fw 3"]:
    """A frame with boxes and lines of text in them; small frames are enlarged.

    Args:
      frame: RGB.
      boxes: x1, y1, x2, y2 as shares of the frame.
      texts: lines for each box, of which the first three are drawn.
    """
    factor = max(-(-_MIN_SIDE // min(frame.shape[:2])), 1)
    picture = np.ascontiguousarray(frame.repeat(factor, 0).repeat(factor, 1))
    height, width = picture.shape[:2]
    letters = max(0.35, min(height, width) / 900)
    step = round(34 * letters)
    for number, (box, lines) in enumerate(zip(boxes, texts, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        corners = (box * [width - 1, height - 1, width - 1, height - 1]).round().astype(int)
        x1, y1, x2, y2 = corners.tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2)
        for line, text in enumerate(lines[:_MAX_LINES], 1):
            x, y = x1 + 4, min(y1 + line * step, height - 4)
            (wide, high), below = cv2.getTextSize(text, _FONT, letters, 1)
            cv2.rectangle(picture, (x - 2, y - high - 2), (x + wide + 2, y + below), (0, 0, 0), -1)
            cv2.putText(picture, text, (x, y), _FONT, letters, colour, 1, cv2.LINE_AA)
    return picture


def _draw_second(
    frame: np.ndarray, second: Second, names: Mapping[int, str], min_score: float
) -> np.ndarray:
    texts = [
        [f"{action['label']} {100 * action['score']:.0f}%" for action in actions]
        for actions in second.actions(names, min_score)
    ]
    return draw(frame, second.boxes, texts)


def write_pictures(
    folder: Path, video: str, found: Sequence[Second], names: Mapping[int, str], choices: Choices
) -> None:
    """Write a JPEG of every second: `<folder>/<video>_<second>.jpg`.

    Raises:
      UserError: a file cannot be written.
    """
    with Video(video) as opened:
        times = np.array([second.second for second in found]) - begins_at_of(choices)
        indices = np.clip(nearest_indices(times, opened.info.fps), 0, opened.num_frames - 1)
        for second, index in zip(found, indices, strict=True):
            frame = opened.frames([index])[0]
            picture = _draw_second(frame, second, names, choices.score)
            encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
            path = folder / f"{Path(video).stem}_{second.second:g}.jpg"
            write_whole(path, encoded.tobytes())


def write_video(
    path: Path, video: str, found: Sequence[Second], names: Mapping[int, str], choices: Choices
) -> None:
    """Write the video with the boxes of the nearest second on every frame.

    They are shown within half a second, and within a second at the ends of the video.

    Raises:
      UserError: the file cannot be written.
    """
    with Video(video) as opened:
        fps = opened.info.fps
    nothing, begins_at = Second(0.0, np.zeros((0, 4)), np.zeros((0, 1))), begins_at_of(choices)
    with whole(path) as part, av.open(str(part), "w", format="mp4") as container:
        encoder: av.VideoStream | None = None
        for number, frame in enumerate(stream(video)):
            time = begins_at + number / fps
            nearest = min(found, key=lambda each: abs(each.second - time), default=nothing)
            is_inside = bool(found) and found[0].second <= time <= found[-1].second
            # The first and the last second that can be scored stand for the ends of the video too.
            is_near = abs(nearest.second - time) <= (0.5 if is_inside else _AT_ENDS) + 1 / fps
            picture = _draw_second(frame, nearest if is_near else nothing, names, choices.score)
            height, width = (side // 2 * 2 for side in picture.shape[:2])
            if encoder is None:
                rate = Fraction(fps).limit_denominator(1001)
                encoder = container.add_stream("libx264", rate=rate)
                encoder.height, encoder.width = height, width
                encoder.pix_fmt = "yuv420p"
            picture = np.ascontiguousarray(picture[:height, :width])
            container.mux(encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if encoder is not None:
            container.mux(encoder.encode(None))
