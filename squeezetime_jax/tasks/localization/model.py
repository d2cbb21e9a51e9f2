"""The localiser: a backbone on overlapping clips, a temporal pyramid, two shared towers; loading.

    window (256 frames) -> 32 clips of 16 frames -> backbone -> (32, h, w, c) -> one vector per
    clip -> levels of 32, 16, 8, 4, 2, 1 cells -> at each cell: distances to a start and an end,
    and class scores

The head is AFSD's (arXiv 2103.13137) without boundary refinement, as the paper has it.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.store import find_step, read_meta, restore_module
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig, as_tuple
from squeezetime_jax.model.layers import initialise, uniform_param
from squeezetime_jax.peers import registry
from squeezetime_jax.tasks.localization.config import NAME, Head, Inference, Window
from squeezetime_jax.tasks.localization.dataset import clip_indices

_NORM_GROUPS = 32
_NORM_EPSILON = 1e-5
_TOWER_DEPTH = 2

Outputs = dict[str, Array]
"""`distances` (n, priors, 2) in frames, `logits` (n, priors, 1 + classes), and where the head has a
quality output `quality` (n, priors), logits."""


class Localizer(nnx.Module):
    """Finds segments in windows.

    Args:
      config: of the backbone, any network of the register; `num_classes` without the background.
      window: the part of a video that is seen at once.
      head: the head's options.
      rngs: source of the initial parameters.
    """

    def __init__(self, config: NetworkConfig, window: Window, head: Head, rngs: nnx.Rngs):
        self.config, self.window = config, window
        self.backbone = registry.build(config, rngs)
        del self.backbone.head  # the classifier of clips
        self.head = LocalizationHead(config, window, head, rngs)

    def __call__(
        self, windows: Float[Array, "n t h w 3"], rngs: nnx.Rngs | Array | None = None
    ) -> Outputs:
        """Outputs at every prior of every window of normalised frames; `rngs` are not used."""
        n = windows.shape[0]
        clips = cut_clips(windows, self.window, self.config.num_frames)
        maps = self.clip_maps(clips.reshape(-1, *clips.shape[2:]))
        return self.head([x.reshape(n, -1, *x.shape[1:]) for x in maps])

    def clip_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _"]]:
        """The feature maps of clips that the head takes, averaged over time if they have it."""
        return stage_maps(self.backbone, clips)[-len(self.head.stems) :]


def stage_maps(backbone: Any, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _"]]:
    """The feature maps of a network's stages, (n, h, w, c)."""
    maps = backbone.stage_maps(clips)
    return [x.mean(1) if x.ndim == 5 else x for x in maps]


class LocalizationHead(nnx.Module):
    """Feature maps of a window's clips to distances and scores at every prior."""

    def __init__(self, config: NetworkConfig, window: Window, head: Head, rngs: nnx.Rngs):
        channels = head.channels
        shapes = _map_shapes(config, window.crop_side)[-(1 + head.features.count("+")) :]
        self.stems = nnx.List([Stem(shape, channels, head, config) for shape in shapes])
        self.downs = nnx.List(
            [ConvNormReLU(channels, channels, 2, config) for _ in range(head.num_levels - 1)]
        )
        self.location_tower, self.class_tower = (
            nnx.List([ConvNormReLU(channels, channels, 1, config) for _ in range(_TOWER_DEPTH)])
            for _ in range(2)
        )
        self.location = Conv1d(channels, 2, 1, config)
        self.classifier = Conv1d(channels, 1 + config.num_classes, 1, config)
        self.quality = nnx.data(Conv1d(channels, 1, 1, config) if head.quality else None)
        self.lengths = head.level_lengths(window.num_clips)
        self.scales = nnx.Param(jnp.ones(len(self.lengths), config.param_dtype))
        self.doubled = head.doubled
        self.dtype = config.param_dtype
        initialise(self, rngs)

    def __call__(self, maps: list[Float[Array, "n t _ _ _"]]) -> Outputs:
        """Outputs of all levels, from the longest to the shortest."""
        # The backbone may compute in less; nothing here does.
        levels = self.pyramid([x.astype(self.dtype) for x in maps])
        outputs: dict[str, list[Array]] = {"distances": [], "logits": []}
        for level, scale in zip(levels, self.scales[...], strict=True):
            where = what = level
            for a, b in zip(self.location_tower, self.class_tower, strict=True):
                where, what = a(where), b(what)
            outputs["distances"].append(jnp.exp(scale * self.location(where)))
            outputs["logits"].append(self.classifier(what))
            if self.quality is not None:
                outputs.setdefault("quality", []).append(self.quality(where)[..., 0])
        return {name: jnp.concatenate(parts, axis=1) for name, parts in outputs.items()}

    def pyramid(self, maps: list[Float[Array, "n t _ _ _"]]) -> list[Float[Array, "n _ c"]]:
        """The levels' features."""
        first, *others = (stem(x) for stem, x in zip(self.stems, maps, strict=True))
        x = sum(others, first)
        levels = [jnp.repeat(x, 2, axis=1), x] if self.doubled else [x]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return levels


class Stem(nnx.Module):
    """A feature map to a vector: a convolution as large as the map, or its mean."""

    def __init__(
        self, shape: tuple[int, int, int], channels: int, head: Head, config: NetworkConfig
    ):
        height, width = shape[:2] if head.collapse == "conv" else (1, 1)
        self.kernel = _glorot_uniform((height, width, shape[2], channels), config)
        self.bias = nnx.Param(jnp.zeros(channels, config.param_dtype))
        self.norm = GroupNorm(channels, config)
        self.collapse = head.collapse

    def __call__(self, x: Float[Array, "n t h w f"]) -> Float[Array, "n t c"]:
        """Collapse space."""
        if self.collapse == "mean":
            x = x.mean((2, 3), keepdims=True)
        x = jnp.einsum("nthwf,hwfc->ntc", x, self.kernel[...]) + self.bias[...]
        return jax.nn.relu(self.norm(x))


class Conv1d(nnx.Module):
    """A convolution of three taps over time, with bias, padded so that stride 1 keeps the length.

    The odd pad of stride 2 is behind, as in the reference and in JAX's "SAME".
    """

    def __init__(self, in_features: int, out_features: int, stride: int, config: NetworkConfig):
        self.kernel = _glorot_uniform((3, in_features, out_features), config)
        self.bias = nnx.Param(jnp.zeros(out_features, config.param_dtype))
        self.stride = stride

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n ft o"]:
        """Convolve."""
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...], (self.stride,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )
        return y + self.bias[...]


class GroupNorm(nnx.Module):
    """Normalises 32 groups of channels over time, in each window by itself."""

    def __init__(self, channels: int, config: NetworkConfig):
        self.scale = nnx.Param(jnp.ones(channels, config.param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, config.param_dtype))

    def __call__(self, x: Float[Array, "n t c"]) -> Float[Array, "n t c"]:
        """Normalise."""
        return group_norm(x, _NORM_GROUPS) * self.scale[...] + self.bias[...]


def group_norm(x: Float[Array, "n t c"], groups: int) -> Float[Array, "n t c"]:
    """Zero mean and unit variance of each group of channels, over time and the group."""
    grouped = x.reshape(*x.shape[:2], groups, -1)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    return ((grouped - mean) * jax.lax.rsqrt(variance + _NORM_EPSILON)).reshape(x.shape)


class ConvNormReLU(nnx.Module):
    """A convolution over time, group norm, ReLU."""

    def __init__(self, in_features: int, out_features: int, stride: int, config: NetworkConfig):
        self.conv = Conv1d(in_features, out_features, stride, config)
        self.norm = GroupNorm(out_features, config)

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n ft o"]:
        """One layer."""
        return jax.nn.relu(self.norm(self.conv(x)))


def abstract_localizer(config: NetworkConfig, window: Window, head: Head) -> Localizer:
    """The localiser with `jax.ShapeDtypeStruct` in the place of arrays."""
    return nnx.eval_shape(lambda: Localizer(config, window, head, nnx.Rngs(0)))


@functools.cache
def _map_shapes(config: NetworkConfig, side: int) -> list[tuple[int, int, int]]:
    """(height, width, channels) of the feature maps of a backbone's stages, frames being squares.

    SqueezeTime's are known by its strides; tracing its 50 layers to learn them would take seconds.
    """
    if isinstance(config, SqueezeTimeConfig):
        shapes, side = [], math.ceil(math.ceil(side / 2) / 2)
        for stride, planes in zip(config.strides, config.planes, strict=True):
            side //= stride
            shapes.append((side, side, planes * config.expansion))
        return shapes
    clip = jax.ShapeDtypeStruct((1, config.num_frames, side, side, 3), config.param_dtype)
    maps = nnx.eval_shape(stage_maps, registry.abstract(config), clip)
    return [(x.shape[1], x.shape[2], x.shape[3]) for x in maps]


def cut_clips(
    windows: Float[Array, "n t h w 3"], window: Window, clip_len: int
) -> Float[Array, "n clips l h w 3"]:
    """The overlapping clips of normalised windows."""
    indices = clip_indices(window, clip_len)
    clips = windows[:, indices]
    if (indices < 0).any():
        is_frame = jnp.asarray(indices >= 0)[None, :, :, None, None, None]
        clips = jnp.where(is_frame, clips, 0.0)
    return clips


def normalise_frames(
    frames: UInt8[Array, "*n h w 3"], window: Window, dtype: Any
) -> Float[Array, "*n h w 3"]:
    """Frames as the input of the network."""
    if window.normalization == "imagenet":
        return normalise(frames, dtype)
    return (frames.astype(jnp.float32) / 255 * 2 - 1).astype(dtype)


def _glorot_uniform(shape: tuple[int, ...], config: NetworkConfig) -> nnx.Param:
    """A kernel (*taps, in, out) that starts as the reference's."""
    taps = math.prod(shape[:-2])
    bound = math.sqrt(6 / (taps * (shape[-2] + shape[-1])))
    return uniform_param(shape, bound, config)


@dataclasses.dataclass(frozen=True)
class Stored:
    """The contents of a localiser's checkpoint.

    Attributes:
      model: the network, in evaluation mode.
      labels: class names, without the background.
      inference: how outputs become detections, as in training.
    """

    model: Localizer
    labels: list[str]
    inference: Inference


def load_localizer(path: str | os.PathLike[str]) -> Stored:
    """Read a localiser from a checkpoint directory, a step of it, or a run's working directory.

    Raises:
      CheckpointError: there is none, or it holds a network for another task, or is damaged.
    """
    step = find_step(path)
    meta = read_meta(step)
    if meta.task != NAME:
        raise CheckpointError(
            f"{path}: expected a network for {NAME}, as `squeezetime train --config thumos14`"
            f" writes, got one for {meta.task}"
        )
    try:
        window = Window(**_with_tuples(meta.settings["window"]))
        head = Head(**_with_tuples(meta.settings["head"]))
        inference = Inference(**_with_tuples(meta.settings["inference"]))
        model = abstract_localizer(meta.config, window, head)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{step / 'meta'}: damaged settings ({error})") from None
    model = restore_module(step, model)
    model.eval()
    labels = meta.labels or [f"class {k}" for k in range(meta.config.num_classes)]
    return Stored(model, labels, inference)


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_tuple(value) for name, value in fields.items()}
