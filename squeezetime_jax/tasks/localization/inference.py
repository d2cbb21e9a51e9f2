"""From videos of any length to detections: windows that share clips, decoding, soft-NMS (AFSD).

Overlapping windows share their clips, and each distinct clip goes through the backbone once. Frames
are read as they come and dropped when no window needs them any more.
"""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, UInt8

from squeezetime_jax.compilation import inference_options
from squeezetime_jax.tasks.localization.annotations import SAMPLE_RATE
from squeezetime_jax.tasks.localization.config import Inference
from squeezetime_jax.tasks.localization.dataset import Image8, clip_indices
from squeezetime_jax.tasks.localization.losses import priors
from squeezetime_jax.tasks.localization.model import Localizer, normalise_frames
from squeezetime_jax.training import devices

STAGES = ("decoding", "backbone", "head", "post-processing")

_WINDOWS_AT_ONCE = 8
_CLIPS_AT_ONCE = 16
_GREY = -1  # the number of a frame that does not exist
_MIN_LENGTH = 1e-5  # seconds, of the stronger segment in an overlap


class Detection(NamedTuple):
    """A segment, in seconds; `label` counts from 0, without the background."""

    label: int
    score: float
    start: float
    end: float


def to_json(detections: Sequence[Detection], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Detections as ActivityNet's format has them."""
    return [
        {"label": labels[d.label], "score": d.score, "segment": [d.start, d.end]}
        for d in detections
    ]


class Found(NamedTuple):
    """The detections of a video, and what they cost.

    Attributes:
      detections: by class, in the order of windows and priors.
      num_frames: frames at the sampled rate.
      cost: number of `windows`, `clips` through the backbone, and seconds of each of `STAGES`.
    """

    detections: list[Detection]
    num_frames: int
    cost: dict[str, float | int]


class Finder:
    """A compiled localiser on all devices of this host.

    Args:
      model: the localiser.
      inference: how outputs become detections.
      shuffle: seed of a random order of the frames of each clip, a control experiment; None: frames
        in order.
    """

    def __init__(self, model: Localizer, inference: Inference, shuffle: int | None = None):
        self.window, self._inference, self._shuffle = model.window, inference, shuffle
        self._indices = clip_indices(model.window, model.config.num_frames)
        mesh = Mesh(np.array(jax.local_devices()), (devices.DATA,))
        self._clips_at_once = _round_up(_CLIPS_AT_ONCE, mesh.size)
        everywhere, self._split = devices.replicated(mesh), devices.split_batch(mesh)
        graph, state = nnx.split(model)
        self._state = jax.device_put(jax.device_get(state), everywhere)
        self._maps = _maps_on(mesh, graph)
        points = priors(model.head.lengths, self.window.num_frames)
        outputs = functools.partial(
            _window_outputs, graph, priors=points, num_frames=self.window.num_frames
        )
        self._outputs = jax.jit(outputs, in_shardings=(everywhere, everywhere))

    def compile(self) -> None:
        """Compile, so that the time of no video includes it."""
        side = self.window.stored_side
        black = np.zeros((side, side, 3), np.uint8)
        self.find(itertools.repeat(black, self.window.num_frames))

    def find(self, frames: Iterable[Image8]) -> Found:
        """Find the segments of one video.

        Args:
          frames: all of them, at the sampled rate, with sides `window.stored_side`. They are read
            as they are needed: memory does not grow with the video, except for the candidates.
        """
        cost: dict[str, float | int] = {"windows": 0, "clips": 0, **dict.fromkeys(STAGES, 0.0)}
        candidates: list[Candidates] = []
        self._rng = np.random.default_rng(self._shuffle)
        cache: dict[bytes, list[np.ndarray]] = {}
        num_frames = 0
        for group in self._groups(_timed(frames, cost)):
            rows = [self._rows(offset, group.num_frames) for offset in group.offsets]
            with _clock(cost, "backbone"):
                cost["clips"] += self._fill(cache, rows, group)
            with _clock(cost, "head"):
                segments, scores = self._score(rows, cache)
            with _clock(cost, "post-processing"):
                for number, offset in enumerate(group.offsets):
                    part = segments[number], scores[number], offset, self._inference.min_score
                    candidates.append(Candidates.of_window(*part))
                _drop(cache, before=group.offsets[-1] + 1)
            num_frames = group.num_frames
            cost["windows"] += len(group.offsets)
        with _clock(cost, "post-processing"):
            detections = merge(candidates, self._inference)
        return Found(detections, num_frames, cost)

    def _groups(self, frames: Iterator[Image8]) -> Iterator["_Group"]:
        """Windows whose frames have all been read, several at a time."""
        length, stride = self.window.num_frames, self._inference.stride
        kept: dict[int, Image8] = {}
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

    def _fill(
        self, cache: dict[bytes, list[np.ndarray]], windows: list[np.ndarray], group: "_Group"
    ) -> int:
        """Add the maps of clips that are not in the cache; returns how many there were."""
        missing = {row.tobytes(): row for rows in windows for row in rows}
        missing = {key: row for key, row in missing.items() if key not in cache}
        keys = list(missing)
        for first in range(0, len(keys), self._clips_at_once):
            part = keys[first : first + self._clips_at_once]
            rows = np.stack([self._order(missing[key]) for key in part])
            spare = self._clips_at_once - len(part)
            rows = np.pad(rows, ((0, spare), (0, 0)), constant_values=_GREY)
            # On several hosts JAX does not cut arrays of NumPy over a host's devices by itself.
            clips = jax.device_put((group.gather(rows), rows >= 0), self._split)
            maps = jax.device_get(self._maps(self._state, *clips))
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


def lower_clip_maps(model: Localizer, mesh: Mesh) -> jax.stages.Lowered:
    """What takes nearly all the time of a `Finder`, the backbone on clips, for the compiler.

    Args:
      model: the localiser, of arrays or of shapes.
      mesh: the devices of a host; this machine may lack them.
    """
    graph, state = nnx.split(model)
    n, side = _round_up(_CLIPS_AT_ONCE, mesh.size), model.window.stored_side
    clips, split = (n, model.config.num_frames), devices.split_batch(mesh)
    return _maps_on(mesh, graph).lower(
        devices.shapes_everywhere(state, mesh),
        jax.ShapeDtypeStruct((*clips, side, side, 3), jnp.uint8, sharding=split),
        jax.ShapeDtypeStruct(clips, jnp.bool_, sharding=split),
    )


def _round_up(number: int, factor: int) -> int:
    return -(-number // factor) * factor


def _maps_on(mesh: Mesh, graph: Any) -> Any:
    """`_clip_maps` of a module's structure, compiled for a host's devices."""
    everywhere, split = devices.replicated(mesh), devices.split_batch(mesh)
    return jax.jit(
        functools.partial(_clip_maps, graph),
        in_shardings=(everywhere, split, split),
        out_shardings=split,
        compiler_options=dict(inference_options(mesh.devices.flat[0].platform)),
    )


@dataclasses.dataclass(frozen=True)
class _Group:
    """Windows that are computed together.

    Attributes:
      offsets: their first frames.
      frames: by number, at least those of the windows.
      num_frames: frames read so far.
    """

    offsets: list[int]
    frames: dict[int, Image8]
    num_frames: int

    def gather(self, rows: Int[np.ndarray, "n t"]) -> UInt8[np.ndarray, "n t side side 3"]:
        """The frames of clips; black where a frame does not exist."""
        black = np.zeros_like(next(iter(self.frames.values())))
        return np.stack(
            [np.stack([self.frames[n] if n >= 0 else black for n in row]) for row in rows.tolist()]
        )


@contextlib.contextmanager
def _clock(cost: dict[str, float | int], stage: str) -> Iterator[None]:
    """Add the seconds of a block to the cost of a stage."""
    begin = time.perf_counter()
    yield
    cost[stage] += time.perf_counter() - begin


def _timed(frames: Iterable[Image8], cost: dict[str, float | int]) -> Iterator[Image8]:
    """The same frames; the time until each arrives is added to the cost of decoding."""
    source = iter(frames)
    while True:
        with _clock(cost, "decoding"):
            frame = next(source, None)
        if frame is None:
            return
        yield frame


def _drop(cache: dict[bytes, Any], before: int) -> None:
    """Drop the clips that begin before a frame: no later window has them."""
    for key in list(cache):
        row = np.frombuffer(key, np.int64)
        if row[row >= 0].min(initial=before) < before:
            del cache[key]


def _clip_maps(
    graph: Any, state: Any, clips: UInt8[Array, "n t side side 3"], is_frame: Bool[Array, "n t"]
) -> list[Array]:
    """Feature maps of the central crops of clips; frames that do not exist are grey."""
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


def segments_and_scores(
    outputs: dict[str, Array], priors: Float[Array, " priors"], num_frames: int
) -> tuple[Float[Array, "n priors 2"], Float[Array, "n priors classes"]]:
    """Segments in frames of their window, cut at its ends, and the scores of the classes.

    Args:
      outputs: of the localiser.
      priors: in frames.
      num_frames: of the window.
    """
    ends = priors[:, None] + outputs["distances"] * jnp.array([-1, 1], priors.dtype)
    scores = jax.nn.softmax(outputs["logits"])[..., 1:]
    if "quality" in outputs:
        scores = scores * jax.nn.sigmoid(outputs["quality"])[..., None]
    return jnp.clip(ends, 0, num_frames), scores


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The candidate segments of a window.

    Attributes:
      labels: classes, from 0.
      segments: in seconds of the video.
      scores: above the least score.
    """

    labels: Int[np.ndarray, " n"]
    segments: Float[np.ndarray, "n 2"]
    scores: Float[np.ndarray, " n"]

    @classmethod
    def of_window(
        cls,
        segments: Float[np.ndarray, "priors 2"],
        scores: Float[np.ndarray, "priors classes"],
        offset: int,
        min_score: float,
    ) -> "Candidates":
        """The pairs of prior and class above the least score, prior by prior."""
        prior, label = np.nonzero(scores > min_score)
        seconds = (segments[prior] + np.float32(offset)) / np.float32(SAMPLE_RATE)
        return cls(label, seconds, scores[prior, label])


def merge(windows: list[Candidates], inference: Inference) -> list[Detection]:
    """The detections of a video: per class, all windows' candidates through soft-NMS."""
    if not windows:
        return []
    labels, segments, scores = (
        np.concatenate([getattr(window, name) for window in windows])
        for name in ("labels", "segments", "scores")
    )
    found = []
    for label in np.unique(labels):
        of_class = labels == label
        kept, decayed = soft_nms(segments[of_class], scores[of_class], inference)
        found += [
            Detection(int(label), float(score), float(start), float(end))
            for (start, end), score in zip(segments[of_class][kept], decayed[kept], strict=True)
        ]
    return found


def soft_nms(
    segments: Float[np.ndarray, "n 2"], scores: Float[np.ndarray, " n"], inference: Inference
) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Gaussian soft-NMS of one class (arXiv 1704.04503) in the reference's form.

    The strongest segment in turn lowers the scores of those that overlap it.

    Args:
      segments: start and end, in any unit.
      scores: not negative.
      inference: its constants, and whether the last segment that remains is left out.

    Returns:
      Which segments remain, and the lowered scores.
    """
    scores = scores.copy()
    done = np.zeros(len(scores), bool)
    active = np.flatnonzero(scores >= inference.drop_below)
    for _ in range(inference.top_k):
        if len(active) <= (1 if inference.drops_last else 0):
            break
        place = int(np.argmax(scores[active]))
        best = active[place]
        done[best] = True
        active = np.delete(active, place)
        overlap = _overlap(segments[best], segments[active])
        scores[active] *= np.exp(-np.square(overlap) / segments.dtype.type(inference.sigma))
        active = active[scores[active] >= inference.drop_below]
    return done, scores


def _overlap(
    one: Float[np.ndarray, "2"], others: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    shared = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    shared = np.maximum(shared, 0)
    length = max(one[1] - one[0], one.dtype.type(_MIN_LENGTH))
    return shared / (length + (others[:, 1] - others[:, 0]) - shared)
