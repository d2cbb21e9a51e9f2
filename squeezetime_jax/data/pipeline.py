"""Videos that have a class, as batches of clips for training and of views for testing."""

import dataclasses
import functools
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data import transforms
from squeezetime_jax.data.batches import (
    EvalBatches,
    Rows,
    Sample,
    TrainBatches,
    UnreadableRecord,
    endless_batches,
    ordered_batches,
)
from squeezetime_jax.data.sources import Record, Source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError

Crop = Literal["multi_scale", "center"]


@dataclasses.dataclass(frozen=True)
class TrainingClip:
    """How a training clip is cut from a video.

    Attributes:
      num_frames: frames of the clip.
      frame_interval: distance between its frames; None takes one random frame from each of
        `num_frames` equal parts of the video.
      short_side: of the frames after resizing, before the crop.
      size: side of the square clip.
      crop: "multi_scale" as in the published recipe, or "center".
    """

    num_frames: int = 16
    frame_interval: int | None = 4
    short_side: int = 256
    size: int = 224
    crop: Crop = "multi_scale"

    def cut(self, record: Record, rng: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
        """Decode one random clip.

        Raises:
          VideoError: the video cannot be read.
        """
        with record.open() as video:
            if self.frame_interval is None:
                indices = transforms.uniform_indices(video.num_frames, self.num_frames, rng=rng)[0]
            else:
                indices = transforms.training_indices(
                    video.num_frames, self.num_frames, self.frame_interval, rng=rng
                )
            frames = video.frames(indices, short_side=self.short_side)
        if self.crop == "multi_scale":
            return transforms.multi_scale_crop(frames, rng, self.size)
        return transforms.center_crop(frames, self.size)


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    num_frames: int = 16,
    frame_interval: int | None = 4,
    short_side: int = 256,
    size: int = 224,
    crop: Crop = "multi_scale",
    workers: int = 0,
    start_step: int = 0,
    rows: Rows | None = None,
) -> TrainBatches:
    """Shuffled training batches without end; every epoch shows each video once.

    An unreadable video is replaced by another, drawn from (seed, epoch, record). More of them than
    the larger of `batches.MAX_BAD_VIDEOS` and the share `batches.MAX_BAD_SHARE` is an error.

    Args:
      source: labelled videos.
      batch_size: clips of a global batch.
      seed: of order and samples.
      num_frames: frames of a clip.
      frame_interval: distance between them; None spreads them over the whole video.
      short_side: of the frames before the crop.
      size: side of the square clips.
      crop: "multi_scale" (the published recipe) or "center".
      workers: decoding processes; 0 decodes in threads of this process, which is as fast until
        Python's lock is the limit (about 4 cores).
      start_step: number of the first batch.
      rows: the rows of each batch that this host reads, by `batches.local_rows`; default: all.

    Returns:
      An iterator over this host's rows of the batches, `{"clips": uint8 (n, t, h, w, 3),
      "labels": int32 (n,)}`.

    Raises:
      UserError: there are fewer videos than clips in a batch.
    """
    clip = TrainingClip(num_frames, frame_interval, short_side, size, crop)
    return endless_batches(
        functools.partial(_labelled_clip, source, clip),
        len(source),
        batch_size=batch_size,
        seed=seed,
        sample_bytes=num_frames * size * size * 3,
        workers=workers,
        start_step=start_step,
        rows=rows,
    )


def eval_batches(
    source: Source,
    protocol: ViewProtocol,
    *,
    batch_size: int,
    workers: int = 0,
    rows: Rows | None = None,
) -> EvalBatches:
    """All views of each video exactly once, over all hosts.

    Args:
      source: labelled videos.
      protocol: which views.
      batch_size: videos of a global batch.
      workers: decoding processes; 0 decodes in threads of this process.
      rows: the rows of each batch that this host reads, by `batches.local_rows`; default: all.

    Returns:
      An iterator over this host's rows of the batches, `{"clips": uint8 (n, views, t, h, w, 3),
      "labels": int32 (n,), "video_ids": int32 (n,), "mask": bool (n,)}`.
    """
    shape = (protocol.num_frames, protocol.crop_size, protocol.crop_size, 3)
    blank = np.broadcast_to(np.zeros((), np.uint8), (protocol.num_views, *shape))
    return ordered_batches(
        functools.partial(_labelled_views, source, protocol),
        {"clips": blank, "labels": np.int32(0)},
        len(source),
        batch_size=batch_size,
        workers=workers,
        rows=rows,
    )


def _labelled_clip(
    source: Source, clip: TrainingClip, rng: np.random.Generator, number: int
) -> Sample:
    record = source[number]
    try:
        return {"clips": clip.cut(record, rng), "labels": np.int32(record.label)}
    except UserError as error:
        raise UnreadableRecord(record.name, str(error)) from None


def _labelled_views(source: Source, protocol: ViewProtocol, number: int) -> Sample:
    record = source[number]
    try:
        with record.open() as video:
            views = transforms.views(video, protocol)
    except UserError as error:
        raise UnreadableRecord(record.name, str(error)) from None
    return {"clips": views, "labels": np.int32(record.label)}
