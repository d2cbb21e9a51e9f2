"""Annotated frames as samples: a clip, its boxes, what they do."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from squeezetime_jax.data import transforms
from squeezetime_jax.data.batches import Sample, UnreadableRecord
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection import boxes as geometry
from squeezetime_jax.tasks.detection.annotations import (
    BoxRows,
    Frame,
    read_excluded,
    read_ground_truth,
)
from squeezetime_jax.tasks.detection.config import Data
from squeezetime_jax.tasks.detection.moments import Frames, Sampling, open_frames
from squeezetime_jax.tasks.detection.proposals import Proposals, read_proposals


@dataclasses.dataclass(frozen=True)
class KeyFrame:
    """An annotated frame.

    Attributes:
      frame: video and second.
      boxes: x1, y1, x2, y2 of its persons, as shares of the frame.
      labels: what each does; column = action id.
    """

    frame: Frame
    boxes: Float64[np.ndarray, "persons 4"]
    labels: Bool[np.ndarray, "persons classes"]


class KeyFrames:
    """The annotated frames of a csv file, in its order.

    Rows of a frame whose four coordinates are equal are one person (mmaction2).

    Args:
      rows: of the file.
      num_classes: action ids are below.
      excluded: frames to leave out.
    """

    def __init__(self, rows: BoxRows, num_classes: int, excluded: set[Frame] | None = None):
        self.rows = rows
        self._num_classes = num_classes
        order = np.argsort(rows.frame, kind="stable")
        ends = np.searchsorted(rows.frame[order], np.arange(len(rows.frames)), "right")
        parts = np.split(order, ends[:-1]) if len(rows.frames) else []
        self._frames = [
            (frame, part)
            for frame, part in zip(rows.frames, parts, strict=True)
            if frame not in (excluded or ())
        ]

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, index: int) -> Frame:
        """Video and second of a frame."""
        return self._frames[index][0]

    def __getitem__(self, index: int) -> KeyFrame:
        frame, part = self._frames[index]
        persons: dict[tuple[float, ...], list[int]] = {}
        for row in part:
            box = tuple(self.rows.boxes[row].tolist())
            persons.setdefault(box, []).append(int(self.rows.action[row]))
        labels = np.zeros((len(persons), self._num_classes), bool)
        for number, actions in enumerate(persons.values()):
            labels[number, actions] = True
        return KeyFrame(frame, np.array(list(persons), np.float64).reshape(-1, 4), labels)


@dataclasses.dataclass(frozen=True)
class Split:
    """What one split is read from.

    Attributes:
      key_frames: annotated frames.
      proposals: boxes that a detector found.
      frames: the pictures.
      excluded: frames that do not count.
      name: of the csv file.
    """

    key_frames: KeyFrames
    proposals: Proposals
    frames: Frames
    excluded: set[Frame]
    name: str


def open_split(data: Data, split: str, num_classes: int, num_frames: int) -> Split:
    """Open the training or test split.

    Args:
      data: where everything is.
      split: "train" or "test".
      num_classes: of the network: action ids are below.
      num_frames: of a clip.

    Raises:
      UserError: a file is missing, or something in it is not what it should be.
    """
    path = getattr(data, split)
    if not path:
        raise UserError(f"config: data.{split} is empty; give --config.data.{split}=FILE.csv")
    if not data.frames:
        raise UserError("config: data.frames is empty; give --config.data.frames=FOLDER")
    if not Path(data.frames).is_dir():
        raise UserError(f"{data.frames}: no such folder of frames or videos; check data.frames")
    excluded_path = getattr(data, f"{split}_excluded")
    excluded = read_excluded(excluded_path) if excluded_path else set()
    rows = read_ground_truth(path, max_action=num_classes - 1)
    key_frames = KeyFrames(rows, num_classes, excluded)
    if not len(key_frames):
        raise UserError(f"{path}: names no frame that counts; check the file and the excluded ones")
    found = getattr(data, f"{split}_proposals")
    proposals = read_proposals(found) if found else Proposals({}, "no proposals")
    if found and not any(key_frames.frame(i) in proposals for i in range(len(key_frames))):
        raise UserError(
            f"{found}: has none of the {len(key_frames)} frames of {path}; wanted the proposals of"
            " this split"
        )
    frames = open_frames(data.frames, data.sampling(num_frames), data.begins_at)
    return Split(key_frames, proposals, frames, excluded, path)


def _read(split: Split, sampling: Sampling, frame: Frame, rng: Any) -> np.ndarray:
    try:
        return split.frames.read(frame[0], sampling.numbers(frame[1], rng))
    except UserError as error:
        raise UnreadableRecord(f"{frame[0]},{frame[1]:04d}", str(error)) from None


def training_sample(
    split: Split, data: Data, num_frames: int, rng: np.random.Generator, index: int
) -> Sample:
    """A random clip of an annotated frame, and the boxes to train on, padded to `max_boxes`.

    Returns:
      `clips`, uint8 (t, size, size, 3); `boxes`, float32 (max_boxes, 4) in pixels of the clip;
      `labels`, bool (max_boxes, classes); `mask`, bool (max_boxes,): which rows are boxes.

    Raises:
      UnreadableRecord: a frame cannot be read.
    """
    key_frame = split.key_frames[index]
    frames = _read(split, data.sampling(num_frames), key_frame.frame, rng)
    found = split.proposals.chosen(key_frame.frame, data.person_score, data.most_proposals)
    height, width = frames.shape[1:3]
    both = np.concatenate([key_frame.boxes, found[:, :4]])
    both = geometry.to_pixels(both, width, height)
    size = data.crop_size
    if data.crop == "multi_scale":
        frames, both = _resize_short_side(frames, both, data.short_side)
        height, width = frames.shape[1:3]
        top, left, height, width = transforms.multi_scale_window(height, width, rng, size)
        frames = transforms.crop(frames, top, left, height, width)
        both = geometry.crop_boxes(both, left, top, width, height)
    both = geometry.resize_boxes(both, (width, height), (size, size))
    count = len(key_frame.boxes)
    rois, labels = geometry.training_rois(
        both[:count],
        key_frame.labels,
        both[count:],
        most=data.max_boxes,
        rng=rng,
        iou=data.match_iou,
    )
    return {
        "clips": transforms.resize(frames, size, size),
        "boxes": _padded(rois, data.max_boxes),
        "labels": _padded(labels, data.max_boxes),
        "mask": np.arange(data.max_boxes) < len(rois),
    }


def _resize_short_side(
    frames: np.ndarray, boxes: Float32[np.ndarray, "k 4"], short_side: int
) -> tuple[np.ndarray, Float32[np.ndarray, "k 4"]]:
    old = frames.shape[2], frames.shape[1]
    frames = transforms.resize_short_side(frames, short_side)
    return frames, geometry.resize_boxes(boxes, old, (frames.shape[2], frames.shape[1]))


class TestClips:
    """The clips of a split's frames as they are tested: the middle one, squashed to a square.

    Args:
      split: what to read.
      data: how.
      num_frames: of a clip.
      orders: for each frame, the order in which its clip's frames are shown; None: as they are.
    """

    __test__ = False  # no test, in spite of its name

    def __init__(
        self, split: Split, data: Data, num_frames: int, orders: np.ndarray | None = None
    ) -> None:
        self._split, self._data, self._num_frames = split, data, num_frames
        self._orders = orders
        counts = [len(self.boxes(index)) for index in range(len(split.key_frames))]
        self.most = -(-max(counts) // 4) * 4  # rows of every sample, a few programs in all

    def boxes(self, index: int) -> Float64[np.ndarray, "k 4"]:
        """The boxes of a frame that are scored, as shares of it."""
        frame = self._split.key_frames.frame(index)
        chosen = functools.partial(self._split.proposals.chosen, frame)
        return chosen(self._data.person_score, self._data.most_proposals)[:, :4]

    @property
    def blank(self) -> Sample:
        """A sample of nothing."""
        size = self._data.crop_size
        clip = np.zeros((self._num_frames, size, size, 3), np.uint8)
        return {
            "clips": clip,
            "boxes": np.zeros((self.most, 4), np.float32),
            "num_boxes": np.int32(0),
        }

    def __call__(self, index: int) -> Sample:
        """The sample of a frame.

        Returns:
          `clips`, uint8 (t, size, size, 3); `boxes`, float32 (most, 4) in pixels of the clip;
          `num_boxes`: how many of its rows are boxes.
        """
        frame = self._split.key_frames.frame(index)
        frames = _read(self._split, self._data.sampling(self._num_frames), frame, None)
        if self._orders is not None:
            frames = frames[self._orders[index]]
        height, width = frames.shape[1:3]
        size = self._data.crop_size
        boxes = geometry.to_pixels(self.boxes(index), width, height)
        boxes = geometry.resize_boxes(boxes, (width, height), (size, size))
        return {
            "clips": transforms.resize(frames, size, size),
            "boxes": _padded(boxes, self.most),
            "num_boxes": np.int32(len(boxes)),
        }


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    out = np.zeros((length, *rows.shape[1:]), rows.dtype)
    out[: len(rows)] = rows
    return out
