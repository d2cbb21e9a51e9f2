"""Scoring boxes: clips through the network, scores to rows of detections."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.batches import (
    all_unreadable,
    local_rows,
    ordered_batches,
    unreadable_error,
)
from squeezetime_jax.files import whole
from squeezetime_jax.tasks.detection.annotations import BoxRows, Frame
from squeezetime_jax.tasks.detection.dataset import TestClips
from squeezetime_jax.tasks.detection.detector import Detector
from squeezetime_jax.training import devices

_DECIMALS = 4  # of the numbers in a file of detections (mmaction2)

Progress = Callable[[int], None]


class Scorer:
    """A detector's compiled forward pass on a mesh.

    Args:
      model: the detector, in evaluation mode.
      mesh: the devices; the first axis of a batch is cut over them.
    """

    def __init__(self, model: Detector, mesh: Mesh):
        graph, state = nnx.split(model)
        self._mesh = mesh
        self._state = devices.put_everywhere(state, mesh)
        dtype = model.config.param_dtype

        def forward(state: Any, clips: Array, boxes: Array) -> Array:
            detector = nnx.merge(graph, state)
            return jax.nn.sigmoid(detector(normalise(clips, dtype), boxes.astype(dtype)))

        everywhere, split = devices.replicated(mesh), devices.split_batch(mesh)
        self._forward = jax.jit(
            forward, in_shardings=(everywhere, split, split), out_shardings=everywhere
        )

    def scores(
        self, clips: UInt8[np.ndarray, "n t h w 3"], boxes: Float32[np.ndarray, "n k 4"]
    ) -> Float[np.ndarray, "m k classes"]:
        """Each action's probability in each box, of the clips of all hosts, on the host."""
        split = devices.split_batch(self._mesh)
        arrays = (jax.make_array_from_process_local_data(split, x) for x in (clips, boxes))
        return np.asarray(self._forward(self._state, *arrays))


def detect_all(
    model: Detector,
    clips: TestClips,
    frames: Sequence[Frame],
    *,
    mesh: Mesh,
    batch_size: int,
    action_score: float,
    workers: int = 0,
    progress: Progress | None = None,
) -> BoxRows:
    """Score the boxes of every frame.

    Args:
      model: the detector.
      clips: gives a frame's clip and boxes.
      frames: the frames, in the order of `clips`.
      mesh: the devices.
      batch_size: clips at once, on all devices.
      action_score: what a score has to exceed to count.
      workers: decoding processes.
      progress: is told how many frames are done.

    Returns:
      Detections as a file of them would be read: numbers of four decimals, `last` the scores; by
      frame, action and box.

    Raises:
      UserError: a frame cannot be read; all such are listed.
    """
    scorer = Scorer(model, mesh)
    rows = local_rows(devices.split_batch(mesh), batch_size)
    batches = ordered_batches(
        clips, clips.blank, len(frames), batch_size=batch_size, workers=workers, rows=rows
    )
    size = np.float32(clips.blank["clips"].shape[1])
    found: list[np.ndarray] = []
    for batch in batches:
        scores = scorer.scores(batch["clips"], batch["boxes"])
        gathered = {
            name: _gather(batch[name]) for name in ("boxes", "num_boxes", "video_ids", "mask")
        }
        for row in np.flatnonzero(gathered["mask"]):
            count = int(gathered["num_boxes"][row])
            number = int(gathered["video_ids"][row])
            boxes = gathered["boxes"][row, :count] / size
            found.append(_detections(number, boxes, scores[row, :count], action_score))
        if progress is not None:
            progress(int(gathered["mask"].sum()))
    if unreadable := all_unreadable(batches.unreadable):
        raise unreadable_error(unreadable)
    return _rows(frames, found)


def _gather(values: np.ndarray) -> np.ndarray:
    """The same of all hosts."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values, tiled=True))


def _detections(
    number: int,
    boxes: Float32[np.ndarray, "k 4"],
    scores: Float[np.ndarray, "k classes"],
    action_score: float,
) -> Float[np.ndarray, "rows 7"]:
    """Rows (frame, x1, y1, x2, y2, action, score) by action, then box; see `above`."""
    box, action = above(scores, action_score)
    columns = [np.full(len(box), number), *boxes[box].T, action, scores[box, action]]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def above(
    scores: Float[np.ndarray, "k classes"], action_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes do which actions: pairs that score more, by action, then box; never action 0."""
    action, box = np.nonzero(np.float32(action_score) < scores[:, 1:].T)
    return box, action + 1


def _rows(frames: Sequence[Frame], found: Sequence[np.ndarray]) -> BoxRows:
    table = np.concatenate([*found, np.zeros((0, 7))])
    table = table[np.argsort(table[:, 0], kind="stable")]
    rounded = [float(f"{value:.{_DECIMALS}f}") for value in table[:, [1, 2, 3, 4, 6]].ravel()]
    values = np.array(rounded, np.float64).reshape(-1, 5)
    return BoxRows(
        frames=list(frames),
        frame=table[:, 0].astype(np.int64),
        boxes=values[:, :4],
        action=table[:, 5].astype(np.int64),
        last=values[:, 4],
        line=np.arange(1, len(table) + 1),
    )


def write_detections(path: Path, rows: BoxRows) -> None:
    """Write detections as a csv file in AVA's format, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    with whole(path) as part, part.open("w") as file:
        for number, box, action, score in zip(
            rows.frame, rows.boxes, rows.action, rows.last, strict=True
        ):
            video, second = rows.frames[number]
            numbers = ",".join(f"{value:.{_DECIMALS}f}" for value in box)
            file.write(f"{video},{second},{numbers},{action},{score:.{_DECIMALS}f}\n")
