"""Videos of any length through the localiser, each clip of overlapping windows once."""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from squeezetime_jax.compilation import inference_options
from squeezetime_jax.tasks.localization import losses
from squeezetime_jax.tasks.localization.config import Inference
from squeezetime_jax.tasks.localization.decoding import (
    Candidates,
    Detection,
    merge,
    segments_and_scores,
)
from squeezetime_jax.tasks.localization.model import Localizer, normalise_frames
from squeezetime_jax.tasks.localization.windows import clip_indices

_WINDOWS_AT_ONCE = 8
_CLIPS_AT_ONCE = 16
_GREY = -1  # the number of a frame that is not there

Frame = UInt8[np.ndarray, "side side 3"]
STAGES = ("decoding", "backbone", "head", "post-processing")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a video holds, and what it took to see.

    Attributes:
      detections: by class, in the order of windows and priors.
      num_frames: frames at the sampled rate.
      num_windows: windows.
      num_clips: clips that went through the backbone.
      seconds: time of each of `STAGES`.
    """

    detections: list[Detection]
    num_frames: int
    num_windows: int
    num_clips: int
    seconds: dict[str, float]


class Finder:
    """A localiser made ready to run.

    Args:
      model: the localiser.
      inference: from outputs to detections.
      shuffle: seed of a random order of the frames of each clip, a control that shows what the
        order is worth; None: as they are.
    """

    def __init__(self, model: Localizer, inference: Inference, shuffle: int | None = None):
        self.window, self._inference, self._shuffle = model.window, inference, shuffle
        self._indices = clip_indices(model.window, model.config.num_frames)
        lengths = model.head.lengths
        graph, state = nnx.split(model)
        self._state = jax.device_get(state)
        self._maps = jax.jit(
            functools.partial(_clip_maps, graph), compiler_options=dict(inference_options())
        )
        self._outputs = jax.jit(
            functools.partial(
                _window_outputs,
                graph,
                priors=losses.priors(lengths, model.window.num_frames),
                num_frames=model.window.num_frames,
            )
        )
        self._state = jax.device_put(self._state)

    def find(self, frames: Iterable[Frame]) -> Found:
        """Find the segments of one video.

        Args:
          frames: all of them, at the sampled rate, `window.stored_side` large. They are read as
            they are needed: memory does not grow with the video, but for the candidates.
        """
        clock: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        candidates: list[Candidates] = []
        self._rng = np.random.default_rng(self._shuffle)
        cache: dict[bytes, list[np.ndarray]] = {}
        num_frames = num_clips = num_windows = 0
        for group in self._groups(_timed(frames, clock)):
            begin = time.perf_counter()
            rows = [self._rows(offset, group.num_frames) for offset in group.offsets]
            num_clips += self._see(rows, group, cache)
            now = time.perf_counter()
            clock["backbone"] += now - begin
            segments, scores = self._score(rows, cache)
            begin = time.perf_counter()
            clock["head"] += begin - now
            for number, offset in enumerate(group.offsets):
                part = segments[number], scores[number], offset, self._inference.min_score
                candidates.append(Candidates.of_window(*part))
            _forget(cache, before=group.offsets[-1] + 1)
            clock["post-processing"] += time.perf_counter() - begin
            num_frames, num_windows = group.num_frames, num_windows + len(group.offsets)
        begin = time.perf_counter()
        detections = merge(candidates, self._inference)
        clock["post-processing"] += time.perf_counter() - begin
        return Found(detections, num_frames, num_windows, num_clips, clock)

    def _groups(self, frames: Iterator[Frame]) -> Iterator["_Group"]:
        """Windows whose frames are all there, several at a time."""
        length, stride = self.window.num_frames, self._inference.stride
        kept: dict[int, Frame] = {}
        waiting: list[int] = []
        upcoming = count = 0
        for frame in frames:
            kept[count] = frame
            count += 1
            if count == upcoming + length:
                waiting.append(upcoming)
                upcoming += stride
            # One more frame must come: the last window is then not among these.
            if len(waiting) == _WINDOWS_AT_ONCE:
                yield _Group(waiting, kept, count)
                waiting = []
            first = min([*waiting, count + 1 - length])
            while (number := next(iter(kept))) < first:
                del kept[number]
        last = max(count - length, 0)
        if count and (upcoming == 0 or upcoming - stride < last):
            waiting.append(last)
        if waiting:
            yield _Group(waiting, kept, count)

    def _rows(self, offset: int, num_frames: int) -> Int[np.ndarray, "clips t"]:
        """The video's frames in each clip of a window."""
        rows = np.where(self._indices < 0, _GREY, self._indices + offset)
        return np.where(rows >= num_frames, _GREY, rows)

    def _see(
        self, windows: list[np.ndarray], group: "_Group", cache: dict[bytes, list[np.ndarray]]
    ) -> int:
        """Put the maps of clips that are not in the cache into it; how many there were."""
        missing = {row.tobytes(): row for rows in windows for row in rows}
        missing = {key: row for key, row in missing.items() if key not in cache}
        keys = list(missing)
        for first in range(0, len(keys), _CLIPS_AT_ONCE):
            part = keys[first : first + _CLIPS_AT_ONCE]
            rows = np.stack([self._order(missing[key]) for key in part])
            rows = np.pad(rows, ((0, _CLIPS_AT_ONCE - len(part)), (0, 0)), constant_values=_GREY)
            maps = jax.device_get(self._maps(self._state, group.gather(rows), rows >= 0))
            for number, key in enumerate(part):
                cache[key] = [each[number] for each in maps]
        return len(keys)

    def _order(self, row: Int[np.ndarray, " t"]) -> Int[np.ndarray, " t"]:
        return row if self._shuffle is None else self._rng.permutation(row)

    def _score(
        self, windows: list[np.ndarray], cache: dict[bytes, list[np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Segments and scores of windows."""
        maps = [
            np.stack([np.stack([cache[row.tobytes()][k] for row in rows]) for rows in windows])
            for k in range(len(next(iter(cache.values()))))
        ]
        spare = _WINDOWS_AT_ONCE - len(windows)
        padded = [np.pad(x, [(0, spare)] + [(0, 0)] * (x.ndim - 1)) for x in maps]
        segments, scores = jax.device_get(self._outputs(self._state, padded))
        return segments[: len(windows)], scores[: len(windows)]


@dataclasses.dataclass(frozen=True)
class _Group:
    """Windows that are looked at together.

    Attributes:
      offsets: their first frames.
      frames: by number, at least those of the windows.
      num_frames: frames read so far.
    """

    offsets: list[int]
    frames: dict[int, Frame]
    num_frames: int

    def gather(self, rows: Int[np.ndarray, "n t"]) -> UInt8[np.ndarray, "n t side side 3"]:
        """The frames of clips; black where there is none."""
        black = np.zeros_like(next(iter(self.frames.values())))
        return np.stack(
            [np.stack([self.frames[n] if n >= 0 else black for n in row]) for row in rows.tolist()]
        )


def _timed(frames: Iterable[Frame], clock: dict[str, float]) -> Iterator[Frame]:
    """The same frames, the time that each takes to come counted."""
    source = iter(frames)
    while True:
        begin = time.perf_counter()
        frame = next(source, None)
        clock["decoding"] += time.perf_counter() - begin
        if frame is None:
            return
        yield frame


def _forget(cache: dict[bytes, Any], before: int) -> None:
    """Drop the clips that begin before a frame: no later window has them."""
    for key in list(cache):
        row = np.frombuffer(key, np.int64)
        if row[row >= 0].min(initial=before) < before:
            del cache[key]


def _clip_maps(
    graph: Any,
    state: Any,
    clips: UInt8[Array, "n t side side 3"],
    is_frame: Array,
) -> list[Array]:
    """Feature maps of the clips' middle squares; frames that are not there are grey."""
    model: Localizer = nnx.merge(graph, state)
    window = model.window
    corner = round((window.stored_side - window.crop_side) / 2)
    middle = slice(corner, corner + window.crop_side)
    inputs = normalise_frames(clips[:, :, middle, middle], window, model.config.param_dtype)
    inputs = jnp.where(is_frame[:, :, None, None, None], inputs, 0.0)
    return model.clip_maps(inputs)


def _window_outputs(
    graph: Any,
    state: Any,
    maps: list[Array],
    *,
    priors: Float[np.ndarray, " priors"],
    num_frames: int,
) -> tuple[Array, Array]:
    model: Localizer = nnx.merge(graph, state)
    outputs = model.head(maps)
    points = jnp.asarray(priors, outputs["distances"].dtype)
    return segments_and_scores(outputs, points, num_frames)
