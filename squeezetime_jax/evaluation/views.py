"""The multi-view protocol: which views of a video are scored, and how their scores become one.

The score of a video is the mean over its views of the softmax (mmaction2's `average_clips="prob"`);
the paper's protocol is 10 clips x 3 crops.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from squeezetime_jax.compilation import inference_options
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.fused import Fused, features, fuse, logits
from squeezetime_jax.model.squeezetime import SqueezeTime

PAPER = "10x3"
"""Views of the paper's Kinetics results: 10 clips x 3 crops."""

_MAX_VIEWS = 1000
# Clips in one call of the network on each device: a CPU gains little beyond a few.
_CLIPS_AT_ONCE = {"cpu": 6}
_CLIPS_AT_ONCE_ELSEWHERE = 32


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sizes of views, whatever their number.

    Attributes:
      one_crop_side: shorter side of the resized frames where one centre crop is taken.
      crop_size: side of a crop; where three are taken, also the frames' shorter side.
      frame_interval: distance between a clip's frames; None spreads it over the video.
    """

    one_crop_side: int = 256
    crop_size: int = 224
    frame_interval: int | None = 4

    @classmethod
    def of(cls, protocol: ViewProtocol) -> "Sampling":
        """The sizes of a protocol, for another number of views."""
        one_crop = protocol.num_crops == 1
        return cls(
            one_crop_side=(
                protocol.short_side if one_crop else round(protocol.crop_size * 256 / 224)
            ),
            crop_size=protocol.crop_size,
            frame_interval=protocol.frame_interval,
        )

    def protocol(self, views: str, num_frames: int) -> ViewProtocol:
        """The protocol of "CLIPSxCROPS" views for a network of so many frames."""
        num_clips, num_crops = parse_views(views)
        return ViewProtocol(
            num_clips=num_clips,
            num_crops=num_crops,
            short_side=self.crop_size if num_crops == 3 else self.one_crop_side,
            crop_size=self.crop_size,
            num_frames=num_frames,
            frame_interval=self.frame_interval,
        )


def parse_views(text: str) -> tuple[int, int]:
    """Clips and crops of "CLIPSxCROPS".

    Raises:
      UserError: it is something else, or the crops are not 1 or 3.
    """
    match = re.fullmatch(r"(\d{1,4})x([13])", text)
    clips, crops = (int(number) for number in match.groups()) if match else (0, 1)
    if not 1 <= clips * crops <= _MAX_VIEWS:
        raise UserError(
            f"views: found {text!r}; wanted CLIPSxCROPS with 1 or 3 crops and at most {_MAX_VIEWS}"
            f" views, such as {PAPER} or 1x1"
        )
    return clips, crops


def sampling_of(checkpoint: str | os.PathLike[str], num_classes: int) -> Sampling:
    """How the network of a checkpoint wants its videos.

    A training run's own configuration says so. Other weights are taken for Kinetics', or for
    HMDB51's if there are 51 classes (released configs).
    """
    path = Path(checkpoint)
    for folder in (path, *path.parents[:2]):
        if (folder / "config.json").is_file():
            try:
                return _sampling_of_run(json.loads((folder / "config.json").read_text()))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{folder / 'config.json'}: damaged ({error}); wanted what training wrote"
                ) from None
    return Sampling(crop_size=286, one_crop_side=286) if num_classes == 51 else Sampling()


def _sampling_of_run(config: dict[str, Any]) -> Sampling:
    evaluation, interval = config["evaluation"], config["data"]["frame_interval"]
    sizes = {name: int(evaluation[name]) for name in ("num_crops", "short_side", "crop_size")}
    return Sampling.of(ViewProtocol(num_clips=1, frame_interval=int(interval) or None, **sizes))


Network = Callable[[UInt8[np.ndarray, "n t h w 3"]], Float[np.ndarray, "n classes"]]
"""Logits of clips, RGB, 0..255, by whatever computes them."""


class Scorer:
    """A network with its weights on the devices, ready for views of videos.

    The weights are folded for inference: `squeezetime_jax.model.fused`.

    Args:
      model: the network; it is not kept.
      mesh: devices that share each batch of videos; by default the first device alone.
    """

    def __init__(self, model: SqueezeTime, mesh: Mesh | None = None) -> None:
        self.config = model.config
        self._devices = mesh.size if mesh else 1
        self.everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None
        self._fused = fuse(model, place=lambda tree: jax.device_put(tree, self.everywhere))

    def scores(self, views: UInt8[Any, "n views t h w 3"]) -> Float[Array, "n classes"]:
        """Mean over the views of the softmax.

        Args:
          views: RGB, 0..255; on the mesh, or on the host.
        """
        return self._mean_over_views(views, "scores")

    def features(self, views: UInt8[Any, "n views t h w 3"]) -> Float[Array, "n channels"]:
        """Mean over the views of the feature map averaged over space: what the head sees."""
        return self._mean_over_views(views, "features")

    def _mean_over_views(self, views: Any, what: Literal["scores", "features"]) -> Array:
        n, num_views = views.shape[:2]
        chunk = self._views_at_once(n, num_views)
        views = jnp.asarray(views)
        network = _network(jax.default_backend())
        total: Array | None = None
        for start in range(0, num_views, chunk):
            some = views if chunk == num_views else _take(views, start, chunk)
            outputs = network(self._fused, some, what=what)
            total = outputs if total is None else _add(total, outputs)
        assert total is not None
        return _divide(total, num_views)

    def _views_at_once(self, n: int, num_views: int) -> int:
        """The most views of each video whose clips one call takes; divides `num_views`."""
        limit = _CLIPS_AT_ONCE.get(jax.default_backend(), _CLIPS_AT_ONCE_ELSEWHERE)
        fits = max(limit * self._devices // n, 1)
        return max(k for k in range(1, num_views + 1) if num_views % k == 0 and k <= fits)


class RuntimeScorer:
    """Scores views of videos by a network outside JAX, one clip at a time.

    Args:
      network: gives the logits of clips.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

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
def _network(backend: str) -> Any:
    """The compiled network; every `Scorer` of the same sizes shares its programs."""
    return jax.jit(
        _sum_over_views, static_argnames="what", compiler_options=dict(inference_options())
    )


def _sum_over_views(
    fused: Fused,
    views: UInt8[Array, "n views t h w 3"],
    *,
    what: Literal["scores", "features"],
) -> Float[Array, "n outputs"]:
    n, num_views = views.shape[:2]
    clips = normalise(views.reshape(n * num_views, *views.shape[2:]), fused.config.param_dtype)
    if what == "scores":
        outputs = jax.nn.softmax(logits(fused, clips))
    else:
        outputs = jnp.mean(features(fused, clips), (1, 2)).astype(fused.config.param_dtype)
    return outputs.reshape(n, num_views, -1).sum(axis=1)


_add = jax.jit(jnp.add)
_divide = jax.jit(jnp.divide)


@jax.jit
def reorder(
    views: UInt8[Array, "n views t h w 3"],
    video_ids: Int[Array, " n"],
    frame_orders: Int[Array, "orders t"],
) -> UInt8[Array, "n views t h w 3"]:
    """The frames of each video's clips in another order: row `video_id % orders` of the table."""
    rows = frame_orders[video_ids % len(frame_orders)]
    return jnp.take_along_axis(views, rows[:, None, :, None, None, None], axis=2)


@functools.partial(jax.jit, static_argnums=2)
def _take(views: Array, start: Array, count: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(views, start, count, axis=1)
