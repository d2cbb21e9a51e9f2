"""Multi-view testing: which views of a video are scored, and how their scores become one.

The score of a video is the mean over its views of the softmax (mmaction2's `average_clips="prob"`);
the paper's protocol is 10 clips x 3 crops.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from squeezetime_jax import hosts
from squeezetime_jax.checkpoint.input import input_of
from squeezetime_jax.compilation import inference_options
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.transforms import NUM_CROPS, ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.fused import Form, Fused, features, fuse, logits
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers.entry import Input
from squeezetime_jax.peers.registry import entry_of

PAPER = "10x3"
"""Views of the paper's Kinetics results: 10 clips x 3 crops."""


def published_views(model: Any) -> str:
    """The views of a network's published test, "CLIPSxCROPS"; `PAPER` for SqueezeTime."""
    expected = entry_of(model).input
    return f"{expected.num_clips}x{expected.num_crops}"


_MAX_VIEWS = 1000
# Clips in one call of the network on each device: a CPU gains little beyond a few.
_CLIPS_AT_ONCE = {"cpu": 6}
_CLIPS_AT_ONCE_ELSEWHERE = 32


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sizes of views, for any number of them.

    Attributes:
      one_crop_side: shorter side of the resized frames for one centre crop.
      crop_size: side of a crop; for three crops, also the frames' shorter side.
      frame_interval: distance between a clip's frames; None spreads the clip over the video.
      test_frames: frames of a clip, where the network is tested with another number than it is
        trained with (TSN).
      fps: take clips in time, as if the video had so many frames per second; None counts its
        frames, whatever its rate.
    """

    one_crop_side: int = 256
    crop_size: int = 224
    frame_interval: int | None = 4
    test_frames: int | None = None
    fps: float | None = None

    @classmethod
    def of(cls, protocol: ViewProtocol) -> "Sampling":
        """The sizes of a protocol, for another number of views."""
        return cls(
            one_crop_side=_one_crop_side(
                protocol.short_side, protocol.crop_size, protocol.num_crops
            ),
            crop_size=protocol.crop_size,
            frame_interval=protocol.frame_interval,
            fps=protocol.target_fps,
        )

    @classmethod
    def of_input(cls, expected: Input) -> "Sampling":
        """The sizes that a network expects; clips in time, if it is known of which rate."""
        is_even = expected.sampling == "interval"
        return cls(
            one_crop_side=_one_crop_side(
                expected.short_side, expected.crop_side, expected.num_crops
            ),
            crop_size=expected.crop_side,
            test_frames=expected.test_frames,
            frame_interval=expected.frame_interval if is_even else None,
            fps=expected.fps if is_even or expected.in_time else None,
        )

    def protocol(self, views: str, num_frames: int) -> ViewProtocol:
        """The protocol of "CLIPSxCROPS" views.

        Args:
          views: clips and crops.
          num_frames: of the network's clips.
        """
        num_clips, num_crops = parse_views(views)
        return ViewProtocol(
            num_clips=num_clips,
            num_crops=num_crops,
            short_side=self.crop_size if num_crops == 3 else self.one_crop_side,
            crop_size=self.crop_size,
            num_frames=self.test_frames or num_frames,
            frame_interval=self.frame_interval,
            target_fps=self.fps,
        )


def _one_crop_side(short_side: int, crop_side: int, num_crops: int) -> int:
    """The shorter side for one centre crop, given a protocol.

    Networks that are tested on three crops of at most 224 pixels, as large as the shorter side, are
    validated on a centre crop of 224 out of 256 (the Kinetics configs); others keep their scale.
    """
    if num_crops == 1 or short_side > crop_side or crop_side > 224:
        return short_side
    return round(crop_side * 256 / 224)


def parse_views(text: str) -> tuple[int, int]:
    """Clips and crops of "CLIPSxCROPS".

    Raises:
      UserError: the text is invalid.
    """
    match = re.fullmatch(rf"(\d{{1,4}})x({'|'.join(map(str, NUM_CROPS))})", text)
    clips, crops = (int(number) for number in match.groups()) if match else (0, 1)
    if not 1 <= clips * crops <= _MAX_VIEWS:
        raise UserError(
            f"views: expected CLIPSxCROPS with 1, 3 or 10 crops and at most {_MAX_VIEWS} views,"
            f" such as {PAPER} or 1x1, got {text!r}"
        )
    return clips, crops


Network = Callable[[UInt8[np.ndarray, "n t h w 3"]], Float[np.ndarray, "n classes"]]
"""Logits of clips, RGB, 0..255, by whatever computes them."""


class Scorer:
    """A network with its weights on the devices, ready for views of videos.

    SqueezeTime's weights are folded for inference (`squeezetime_jax.model.fused`); other networks
    are computed as they are trained.

    Args:
      model: the network, in evaluation mode; it is not kept.
      mesh: devices that share each batch of videos; by default the first device alone.
      place: puts a tree of weights on the devices; by default a copy on each of them.

    Attributes:
      config: the network's configuration.
      sampling: sizes of views that it expects.
    """

    def __init__(
        self, model: Any, mesh: Mesh | None = None, place: Callable[[Any], Any] | None = None
    ) -> None:
        self.config = model.config
        self._platform = mesh.devices.flat[0].platform if mesh else jax.default_backend()
        self._devices = mesh.size if mesh else 1
        expected = input_of(model)
        self.sampling = Sampling.of_input(expected)
        self._pixels = expected.mean, expected.std
        self._graph: Any = None
        self._mesh = mesh
        if place is None:
            place = functools.partial(hosts.put_everywhere, mesh=mesh) if mesh else jax.device_put
        if isinstance(model, SqueezeTime):
            self._weights = fuse(model, Form.of(self._platform), place)
        else:
            self._graph, state = nnx.split(model)
            self._weights = place(state)

    def videos_at_once(self, num_views: int) -> int:
        """How many videos of so many views make a full batch."""
        limit = _CLIPS_AT_ONCE.get(jax.default_backend(), _CLIPS_AT_ONCE_ELSEWHERE)
        return max(limit * self._devices // num_views, 1)

    def scores(self, views: UInt8[Any, "n views t h w 3"]) -> Float[Array, "n classes"]:
        """Mean over the views of the softmax.

        Args:
          views: RGB, 0..255; on the mesh, or on the host.
        """
        return self._mean_over_views(views, "scores")

    def lower(self, shape: tuple[int, ...]) -> jax.stages.Lowered:
        """The program that `scores` calls for views of a shape, (n, views, t, h, w, 3).

        With a mesh whose devices this machine lacks, `place` must give shapes of the weights.
        """
        chunk = self._views_at_once(*shape[:2])
        assert self._mesh is not None
        split = NamedSharding(self._mesh, PartitionSpec(*self._mesh.axis_names))
        views = jax.ShapeDtypeStruct((shape[0], chunk, *shape[2:]), jnp.uint8, sharding=split)
        return _network(self._platform).lower(
            self._weights, views, graph=self._graph, what="scores", pixels=self._pixels
        )

    def features(self, views: UInt8[Any, "n views t h w 3"]) -> Float[Array, "n channels"]:
        """Mean over the views of the feature map, averaged over space (and time, if it has any)."""
        return self._mean_over_views(views, "features")

    def _mean_over_views(self, views: Any, what: Literal["scores", "features"]) -> Array:
        n, num_views = views.shape[:2]
        chunk = self._views_at_once(n, num_views)
        views = jnp.asarray(views)
        network = _network(self._platform)
        total: Array | None = None
        for start in range(0, num_views, chunk):
            some = views if chunk == num_views else _take(views, start, chunk)
            outputs = network(
                self._weights, some, graph=self._graph, what=what, pixels=self._pixels
            )
            total = outputs if total is None else _add(total, outputs)
        assert total is not None
        return _divide(total, num_views)

    def _views_at_once(self, n: int, num_views: int) -> int:
        """How many views of each video one call takes: a divisor of `num_views`."""
        limit = _CLIPS_AT_ONCE.get(self._platform, _CLIPS_AT_ONCE_ELSEWHERE)
        fits = max(limit * self._devices // n, 1)
        return max(k for k in range(1, num_views + 1) if num_views % k == 0 and k <= fits)


class RuntimeScorer:
    """Scores views of videos by a network outside JAX, one clip at a time.

    Args:
      network: gives the logits of clips.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def videos_at_once(self, num_views: int) -> int:
        """How many videos make a full batch: clips are computed one by one."""
        return 1

    def scores(self, views: UInt8[np.ndarray, "n views t h w 3"]) -> Float[np.ndarray, "n classes"]:
        """Mean over the views of the softmax.

        Args:
          views: RGB, 0..255.
        """
        return np.stack([self._score(video) for video in views])

    def _score(self, video: np.ndarray) -> np.ndarray:
        total: Any = 0.0
        for clip in video:
            (logits,) = self._network(clip[None])
            shifted = np.exp(logits - logits.max())
            total = total + shifted / shifted.sum()
        return np.asarray(total / len(video), np.float32)


@functools.cache
def _network(platform: str) -> Any:
    """The compiled network; scorers of the same configuration share its programs."""
    return jax.jit(
        _sum_over_views,
        static_argnames=("graph", "what", "pixels"),
        compiler_options=dict(inference_options(platform)),
    )


def _sum_over_views(
    weights: Any,
    views: UInt8[Array, "n views t h w 3"],
    *,
    graph: Any,
    what: Literal["scores", "features"],
    pixels: tuple[Sequence[float], Sequence[float]],
) -> Float[Array, "n outputs"]:
    """Scores or features; `graph` is None for folded weights, `pixels` are mean and deviation."""
    n, num_views = views.shape[:2]
    network = _Folded(weights) if graph is None else nnx.merge(graph, weights)
    dtype = network.config.param_dtype
    mean, std = pixels
    clips = normalise(views.reshape(n * num_views, *views.shape[2:]), dtype, mean=mean, std=std)
    if what == "scores":
        outputs = jax.nn.softmax(network(clips))
    else:
        maps = network.features(clips)
        outputs = jnp.mean(maps, tuple(range(1, maps.ndim - 1))).astype(dtype)
    return outputs.reshape(n, num_views, -1).sum(axis=1)


class _Folded:
    """Folded weights, called like the network that they are from."""

    def __init__(self, fused: Fused) -> None:
        self.config = fused.config
        self._fused = fused

    def __call__(self, clips: Float[Array, "n t h w 3"]) -> Float[Array, "n classes"]:
        return logits(self._fused, clips)

    def features(self, clips: Float[Array, "n t h w 3"]) -> Float[Array, "n fh fw c"]:
        return features(self._fused, clips)


_add = jax.jit(jnp.add)
_divide = jax.jit(jnp.divide)


@jax.jit
def reorder(
    views: UInt8[Array, "n views t h w 3"],
    video_ids: Int[Array, " n"],
    frame_orders: Int[Array, "orders t"],
) -> UInt8[Array, "n views t h w 3"]:
    """The frames of each video's clips in the order of row `video_id % orders` of the table."""
    rows = frame_orders[video_ids % len(frame_orders)]
    return jnp.take_along_axis(views, rows[:, None, :, None, None, None], axis=2)


@functools.partial(jax.jit, static_argnums=2)
def _take(views: Array, start: Array, count: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(views, start, count, axis=1)
