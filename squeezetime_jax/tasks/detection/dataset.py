"""Annotated frames as records: a clip, its boxes, the actions of each box."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from squeezetime_jax.data import prepare as shards
from squeezetime_jax.data import transforms
from squeezetime_jax.data.batches import Sample, UnreadableRecord, pad_rows
from squeezetime_jax.data.embedded import people
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection import boxes as geometry
from squeezetime_jax.tasks.detection.annotations import (
    BoxRows,
    Frame,
    read_excluded,
    read_ground_truth,
)
from squeezetime_jax.tasks.detection.config import Data, Experiment
from squeezetime_jax.tasks.detection.frames import frame_name, open_frames, write_shards
from squeezetime_jax.tasks.detection.proposals import Proposals, read_proposals


@dataclasses.dataclass(frozen=True)
class KeyFrame:
    """An annotated frame.

    Attributes:
      frame: video and second.
      boxes: x1, y1, x2, y2 of its persons, as shares of the frame.
      labels: actions of each person; column = action id.
    """

    frame: Frame
    boxes: Float64[np.ndarray, "persons 4"]
    labels: Bool[np.ndarray, "persons classes"]


class KeyFrames:
    """The annotated frames of a csv file, in its order.

    Rows of a frame whose four coordinates are equal are one person (mmaction2).

    Args:
      rows: of the file.
      num_classes: action ids are below it.
      excluded: frames to leave out.

    Attributes:
      rows: of the file.
      num_classes: action ids are below it.
      frames: video and second of each frame.
    """

    def __init__(self, rows: BoxRows, num_classes: int, excluded: set[Frame] | None = None):
        self.rows = rows
        self.num_classes = num_classes
        order = np.argsort(rows.frame, kind="stable")
        ends = np.searchsorted(rows.frame[order], np.arange(len(rows.frames)), "right")
        parts = np.split(order, ends[:-1]) if len(rows.frames) else []
        kept = [
            (frame, part)
            for frame, part in zip(rows.frames, parts, strict=True)
            if frame not in (excluded or ())
        ]
        self.frames = [frame for frame, _ in kept]
        self._parts = [part for _, part in kept]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> KeyFrame:
        persons: dict[tuple[float, ...], list[int]] = {}
        for row in self._parts[index]:
            box = tuple(self.rows.boxes[row].tolist())
            persons.setdefault(box, []).append(int(self.rows.action[row]))
        labels = np.zeros((len(persons), self.num_classes), bool)
        for number, actions in enumerate(persons.values()):
            labels[number, actions] = True
        boxes = np.array(list(persons), np.float64).reshape(-1, 4)
        return KeyFrame(self.frames[index], boxes, labels)


def with_files(data: Data, folder: Path) -> Data:
    """The data with the files of the embedded data set, where `train` names it."""
    files = {split: people.written(folder, split) for split in ("train", "test")}
    named: dict[str, Any] = {
        f"{split}{suffix}": str(path)
        for split, each in files.items()
        for suffix, path in (
            ("", each.ground_truth),
            ("_proposals", each.proposals),
            ("_excluded", each.excluded),
        )
    }
    return dataclasses.replace(
        data,
        **named,
        labels=str(files["train"].actions),
        frames=str(files["train"].root),
        begins_at=float(people.START),
    )


class Split:
    """The training or test part of the data, opened.

    Args:
      data: where the files are.
      split: "train" or "test".
      num_classes: of the network: action ids are below it.
      num_frames: of a clip.

    Attributes:
      data: where the files are.
      sampling: which frames make a clip.
      key_frames: annotated frames.
      proposals: boxes that a detector found.
      frames: the pictures.
      excluded: frames that do not count.

    Raises:
      UserError: a file is missing or invalid.
    """

    def __init__(self, data: Data, split: str, num_classes: int, num_frames: int):
        self.data, self.sampling = data, data.sampling(num_frames)
        path = getattr(data, split)
        if not path:
            raise UserError(f"config: data.{split} is empty; set --config.data.{split}=FILE.csv")
        if not data.frames:
            raise UserError("config: data.frames is empty; set --config.data.frames=FOLDER")
        if not Path(data.frames).is_dir():
            raise UserError(f"{data.frames}: no such folder of frames or videos; check data.frames")
        excluded = getattr(data, f"{split}_excluded")
        self.excluded = read_excluded(excluded) if excluded else set()
        rows = read_ground_truth(path, max_action=num_classes - 1)
        for video, second in rows.frames:
            if not data.start <= second <= data.end:
                raise UserError(
                    f"{path}: second {second} of {video} is not in [{data.start}, {data.end}], from"
                    " data.start to data.end; set them to the seconds that the frames show"
                )
        self.key_frames = KeyFrames(rows, num_classes, self.excluded)
        if not len(self.key_frames):
            raise UserError(f"{path}: no frame is left after {excluded or 'reading'}; check both")
        found = getattr(data, f"{split}_proposals")
        self.proposals = read_proposals(found) if found else Proposals({})
        if found and not any(frame in self.proposals for frame in self.key_frames.frames):
            raise UserError(
                f"{found}: no proposals for any of the {len(self.key_frames)} frames of {path}; use"
                " the proposals of this split"
            )
        self.frames = open_frames(data.frames, self.sampling, data.begins_at)

    def contents(self) -> Any:
        """The annotations and the proposals."""
        proposals = {frame: self.proposals.all_of(frame) for frame in self.proposals.frames()}
        return vars(self.key_frames.rows), proposals

    def select_proposals(self, frame: Frame) -> Float64[np.ndarray, "n 4"]:
        """The boxes of a frame that a detector found and that are used, as shares of it."""
        data = self.data
        return self.proposals.select(frame, data.person_score, data.most_proposals)[:, :4]

    def read_clip(self, frame: Frame, rng: Any = None) -> UInt8[np.ndarray, "t h w 3"]:
        """The clip around an annotated second.

        Raises:
          UnreadableRecord: a frame cannot be read.
        """
        try:
            return self.frames.read(frame, self.sampling.numbers(frame[1], rng))
        except UserError as error:
            raise UnreadableRecord(frame_name(frame), str(error)) from None

    def training_sample(self, index: int, rng: np.random.Generator) -> Sample:
        """A random clip of an annotated frame, and the boxes to train on, padded to `max_boxes`.

        Returns:
          `clips`, uint8 (t, size, size, 3); `boxes`, float32 (max_boxes, 4) in pixels of the clip;
          `labels`, bool (max_boxes, classes); `mask`, bool (max_boxes,): which rows are boxes.

        Raises:
          UnreadableRecord: a frame cannot be read.
        """
        data, key_frame = self.data, self.key_frames[index]
        frames = self.read_clip(key_frame.frame, rng)
        height, width = frames.shape[1:3]
        both = np.concatenate([key_frame.boxes, self.select_proposals(key_frame.frame)])
        both = geometry.to_pixels(both, width, height)
        size = data.crop_size
        if data.crop == "multi_scale":
            frames = transforms.resize_short_side(frames, data.short_side)
            old, (height, width) = (width, height), frames.shape[1:3]
            both = geometry.resize_boxes(both, old, (width, height))
            top, left, height, width = transforms.multi_scale_window(height, width, rng, size)
            frames = transforms.crop(frames, top, left, height, width)
            both = geometry.crop_boxes(both, left, top, width, height)
        both = geometry.resize_boxes(both, (width, height), (size, size))
        count = len(key_frame.boxes)
        rois, labels = geometry.training_rois(
            both[:count],
            key_frame.labels,
            both[count:],
            max_boxes=data.max_boxes,
            rng=rng,
            iou=data.match_iou,
        )
        return {
            "clips": transforms.resize(frames, size, size),
            "boxes": pad_rows(rois, data.max_boxes),
            "labels": pad_rows(labels, data.max_boxes),
            "mask": np.arange(data.max_boxes) < len(rois),
        }


def prepare(
    experiment: Experiment,
    split: str,
    out: Path,
    *,
    short_side: int = 360,
    processes: int | None = None,
) -> shards.Report:
    """Pack all frames that clips of a split may contain into shards; existing ones are kept.

    Args:
      experiment: its data, and how clips are taken.
      split: "train" or "test".
      out: folder of the shards; the same for both splits.
      short_side: of the stored frames, at most: frames are never enlarged.
      processes: seconds packed at once; by default one per core.

    Raises:
      UserError: a file is missing or invalid; or the folder holds other clips.
    """
    model = experiment.model
    data = dataclasses.replace(experiment.data, train_proposals="", test_proposals="")
    opened = Split(data, split, model.num_classes, model.num_frames)
    return write_shards(
        opened.frames, opened.key_frames.frames, opened.sampling, out, split, short_side, processes
    )


def square_clip(
    frames: UInt8[np.ndarray, "t h w 3"], boxes: Float64[np.ndarray, "k 4"], size: int
) -> tuple[UInt8[np.ndarray, "t {size} {size} 3"], Float32[np.ndarray, "k 4"]]:
    """A clip as it is tested, resized to a square, and boxes in shares of it in its pixels."""
    height, width = frames.shape[1:3]
    pixels = geometry.to_pixels(boxes, width, height)
    pixels = geometry.resize_boxes(pixels, (width, height), (size, size))
    return transforms.resize(frames, size, size), pixels
