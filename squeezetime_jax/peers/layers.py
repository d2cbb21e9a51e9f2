"""The layers that the compared networks are built from.

Feature maps are (n, t, h, w, c) in every network, also where nothing mixes frames: then kernels
have length 1 in time. Kernels are (kt, kh, kw, in, out). What parameters and batch statistics are
kept in and what is computed in follow from the configuration (`NetworkConfig.dtype`).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.model.layers import Linear, normal_param, uniform_param
from squeezetime_jax.model.norm import EPSILON, MOMENTUM, BatchNorm

Triple = tuple[int, int, int]
Padding = tuple[int, ...] | Literal["SAME"]
Activation = Callable[[Array], Array]


class Conv(nnx.Module):
    """A convolution over time and space.

    The kernel starts He-normal with fan-out, the bias uniform in +-1/sqrt(fan-in).

    Args:
      in_features: channels read.
      out_features: channels written.
      kernel: its length in time, height and width; one number k stands for (1, k, k).
      config: gives the dtypes.
      stride: in time, height and width; one number s stands for (1, s, s).
      padding: zeros at each end of the three axes; by default half the kernel. "SAME" as in
        TensorFlow: a stride s leaves ceil(side / s), and an odd zero goes to the end.
      groups: channels are cut into so many groups that do not mix.
      bias: whether a bias is added.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: int | Triple,
        config: NetworkConfig,
        *,
        stride: int | Triple = 1,
        padding: Padding | None = None,
        groups: int = 1,
        bias: bool = False,
    ):
        kernel = triple(kernel)
        taps = math.prod(kernel)
        shape = (*kernel, in_features // groups, out_features)
        # PyTorch counts the fan-out of a grouped convolution over all channels.
        self.kernel = normal_param(shape, math.sqrt(2 / (out_features * taps)), config)
        bound = 1 / math.sqrt(in_features // groups * taps)
        self.bias = nnx.data(uniform_param((out_features,), bound, config) if bias else None)
        self.stride = triple(stride)
        self.padding = tuple(k // 2 for k in kernel) if padding is None else padding
        self.groups = groups
        self.dtype = config.compute_dtype

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n ft fh fw o"]:
        """Convolve."""
        kernel = self.kernel[...].astype(self.dtype)
        y = convolve(x, kernel, stride=self.stride, padding=self.padding, groups=self.groups)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class ConvNorm(nnx.Module):
    """A convolution, its batch norm and an activation.

    Args: those of `Conv` and `BatchNorm`, and
      conv: the class of the convolution.
      activation: applied last; None for none.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: int | Triple,
        config: NetworkConfig,
        *,
        stride: int | Triple = 1,
        padding: Padding | None = None,
        groups: int = 1,
        conv: Callable[..., Callable] = Conv,
        activation: Activation | None = None,
        epsilon: float = EPSILON,
        momentum: float = MOMENTUM,
    ):
        self.conv = conv(
            *(in_features, out_features, triple(kernel), config),
            stride=triple(stride),
            padding=padding,
            groups=groups,
        )
        self.norm = BatchNorm(out_features, config, epsilon=epsilon, momentum=momentum)
        self.activation = activation

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n ft fh fw o"]:
        """Convolve, normalise, activate."""
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


class Head(nnx.Module):
    """Average pool, a hidden layer where there is one, dropout, linear classifier.

    Args:
      in_features: channels of the feature map.
      config: gives the classes, dropout and dtypes.
      std: standard deviation of the classifier's initial kernel.
      per_frame: whether frames are classified one by one and their logits averaged; without
        dropout the same as averaging features.
      window: length, height and width of the average pool, which slides one step at a time; each
        position is classified and the logits are averaged. None: one average of the whole map.
      hidden: the hidden layer.
      activation: behind it.
    """

    def __init__(
        self,
        in_features: int,
        config: NetworkConfig,
        *,
        std: float = 0.01,
        per_frame: bool = False,
        window: Triple | None = None,
        hidden: Linear | None = None,
        activation: Activation = jax.nn.relu,
    ):
        self.hidden, self.activation = nnx.data(hidden), activation
        if hidden is not None:
            in_features = hidden.kernel.shape[1]
        self.dropout = nnx.Dropout(config.dropout)
        self.classifier = Linear(in_features, config.num_classes, config, std=std)
        self.per_frame, self.window = per_frame, window
        self.dtype = config.param_dtype

    def __call__(
        self, x: Float[Array, "n t h w c"], rngs: nnx.Rngs | Array | None = None
    ) -> Float[Array, "n classes"]:
        """Logits of a feature map."""
        if self.window is None:
            x = jnp.mean(x, (2, 3) if self.per_frame else (1, 2, 3))
        else:
            window = tuple(map(min, self.window, x.shape[1:4]))  # a smaller map is pooled whole
            x = nnx.avg_pool(x, window_shape=window, strides=(1, 1, 1), padding="VALID")
            x = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.hidden is not None:
            x = self.activation(self.hidden(x))
        logits = self.classifier(self.dropout(x, rngs=rngs)).astype(self.dtype)
        return logits if logits.ndim == 2 else jnp.mean(logits, axis=1)


class Network(nnx.Module):
    """What all compared networks share: features, then a head.

    A subclass sets `config` and `head` and defines `stage_maps`. A new network is in training
    mode; `eval()` and `train()` switch.
    """

    config: NetworkConfig
    head: Callable[..., Array]

    def __call__(
        self, clips: Float[Array, "n t h w 3"], rngs: nnx.Rngs | Array | None = None
    ) -> Float[Array, "n classes"]:
        """Score clips.

        Args:
          clips: normalised RGB.
          rngs: what dropout draws from, a random key or `nnx.Rngs`; used in training only.

        Returns:
          Logits, in float32 whatever the network computes in (float64 if it computes in that).

        Raises:
          ValueError: the clips have another shape.
          TypeError: the clips are not floating-point numbers.
        """
        return self.head(self.features(clips), rngs)

    def features(self, clips: Float[Array, "n t h w 3"]) -> Float[Array, "n ft fh fw c"]:
        """The feature map that the head pools.

        Args and Raises: as for calling the network.
        """
        return self.stage_maps(clips)[-1]

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the stages end with.

        Args and Raises: as for calling the network.
        """
        raise NotImplementedError


def check_clips(clips: Array, config: NetworkConfig, num_frames: int | None = None) -> Array:
    """Clips in the dtype that the network computes in.

    Args:
      clips: (n, t, h, w, 3), floating point.
      config: gives the network's name and dtype.
      num_frames: how many frames the network takes; None for any number.

    Raises:
      ValueError: the clips have another shape.
      TypeError: they are not floating-point numbers.
    """
    frames_fit = clips.ndim == 5 and num_frames in (None, clips.shape[1])
    if not frames_fit or clips.shape[4] != 3 or not all(clips.shape[1:]):
        frames = "t" if num_frames is None else num_frames
        raise ValueError(
            f"{config.name}: clips must have shape (n, {frames}, h, w, 3), got {clips.shape}"
        )
    if not jnp.issubdtype(clips.dtype, jnp.floating):
        raise TypeError(
            f"{config.name}: clips must be normalised floating-point numbers, got {clips.dtype}"
        )
    return clips.astype(config.compute_dtype)


@partial(jax.jit, static_argnames=("stride", "padding", "groups"))
def convolve(
    x: Float[Array, "n t h w i"],
    kernel: Float[Array, "kt kh kw gi o"],
    *,
    stride: Triple = (1, 1, 1),
    padding: Padding = (0, 0, 0),
    groups: int = 1,
) -> Float[Array, "n ft fh fw o"]:
    """A convolution; arguments as for `Conv`.

    Of one clip or many, it is computed as what XLA does fastest on CPUs: a matrix product where
    the kernel is a point, 2-D convolutions where it has no extent in time or none in space, shifted
    products where no channels mix.

    Raises:
      ValueError: the map is smaller than the kernel.
    """
    n, t, h, w, channels = x.shape
    kt, kh, kw = kernel.shape[:3]
    pads = tuple(_pads(x.shape[1:4], kernel.shape[:3], stride, padding))
    _check_room(x.shape[1:4], kernel.shape[:3], pads)
    if groups == channels == kernel.shape[4] and groups > 1:
        return depthwise(x, kernel[..., 0, :], stride=stride, pads=pads)
    # LiteRT cannot hold the matrix product of a map of one pixel.
    if (kt, kh, kw) == (1, 1, 1) and not any(map(any, pads)) and (h > 1 or w > 1):
        x = x[:, :: stride[0], :: stride[1], :: stride[2]]
        return x @ kernel[0, 0, 0] if groups == 1 else _multiply_groups(x, kernel[0, 0, 0], groups)
    if kt == 1 and stride[0] == 1 and not any(pads[0]):
        y = _convolve(x.reshape(n * t, h, w, channels), kernel[0], stride[1:], pads[1:], groups)
        return y.reshape(n, t, *y.shape[1:])
    if groups == 1 and (kh, kw) == (1, 1) and stride[1:] == (1, 1) and not any(map(any, pads[1:])):
        flat = x.reshape(n, t, h * w, channels)
        y = _convolve(flat, kernel[:, 0], (stride[0], 1), (pads[0], (0, 0)), groups)
        return y.reshape(n, -1, h, w, kernel.shape[4])
    return jax.lax.platform_dependent(
        *(x, kernel),
        cpu=partial(_convolve_frames, stride=stride, pads=pads, groups=groups),
        default=partial(_convolve, stride=stride, pads=pads, groups=groups),
    )


@partial(jax.jit, static_argnames=("stride", "pads"))
def depthwise(
    x: Float[Array, "n t h w c"],
    kernel: Float[Array, "kt kh kw c"],
    *,
    stride: Triple,
    pads: tuple[tuple[int, int], ...],
) -> Float[Array, "n ft fh fw c"]:
    """A convolution that mixes no channels, as a sum of shifted products.

    XLA's grouped convolution is many times slower on CPUs.
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    sizes = [(x.shape[a + 1] - kernel.shape[a]) // stride[a] + 1 for a in range(3)]
    total = None
    for i, j, k in itertools.product(*map(range, kernel.shape[:3])):
        ends = [o + (n - 1) * s + 1 for o, n, s in zip((i, j, k), sizes, stride, strict=True)]
        part = x[:, i : ends[0] : stride[0], j : ends[1] : stride[1], k : ends[2] : stride[2]]
        part = part * kernel[i, j, k]
        total = part if total is None else total + part
    assert total is not None
    return total


def max_pool(
    x: Float[Array, "n t h w c"], window: Triple, stride: Triple, padding: Triple = (0, 0, 0)
) -> Float[Array, "n ft fh fw c"]:
    """The maximum over windows; padding never wins.

    Raises:
      ValueError: the map is smaller than a window.
    """
    pads = [(p, p) for p in padding]
    _check_room(x.shape[1:4], window, pads)
    window_pool = partial(nnx.max_pool, window_shape=window, strides=stride, padding=pads)
    slices = partial(_max_of_slices, window=window, stride=stride, pads=pads)
    return jax.lax.platform_dependent(x, cpu=slices, default=window_pool)


def _max_of_slices(
    x: Array, window: Triple, stride: Triple, pads: Sequence[tuple[int, int]]
) -> Array:
    """A max-pool, axis by axis, as XLA computes it faster on CPUs."""
    for axis in (1, 2, 3):
        size, hop, pad = window[axis - 1], stride[axis - 1], pads[axis - 1]
        widths = [(0, 0)] * x.ndim
        widths[axis] = pad
        padded = jnp.pad(x, widths, constant_values=-jnp.inf) if any(pad) else x
        span = (padded.shape[axis] - size) // hop * hop + 1
        slices = [jax.lax.slice_in_dim(padded, i, i + span, hop, axis) for i in range(size)]
        x = reduce(jnp.maximum, slices)
    return x


def triple(value: int | Triple) -> Triple:
    """(time, height, width) of a number that is meant for height and width."""
    return (1, value, value) if isinstance(value, int) else value


def _pads(
    sides: Sequence[int], kernel: Sequence[int], stride: Triple, padding: Padding
) -> list[tuple[int, int]]:
    """Zeros before and after on the three axes."""
    if padding != "SAME":
        return [(int(p), int(p)) for p in padding]
    totals = [
        max((-(-side // s) - 1) * s + k - side, 0)
        for side, k, s in zip(sides, kernel, stride, strict=True)
    ]
    return [(total // 2, total - total // 2) for total in totals]


def _check_room(
    sides: Sequence[int], window: Sequence[int], pads: Sequence[tuple[int, int]]
) -> None:
    if any(side + sum(pad) < k for side, k, pad in zip(sides, window, pads, strict=True)):
        found, needed = ("x".join(map(str, each)) for each in (sides, window))
        raise ValueError(
            "the clips have too few frames or pixels for this network: inside it, a map of "
            f"{found} (time, height, width) is smaller than a window of {needed}"
        )


def _convolve_frames(
    x: Array, kernel: Array, stride: Triple, pads: tuple[tuple[int, int], ...], groups: int
) -> Array:
    """A 3-D convolution as 2-D ones over frames, which XLA computes many times faster on CPUs."""
    length, hop, channels = len(kernel), stride[0], x.shape[-1]
    x = jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0), (0, 0)))
    span = (x.shape[1] - length) // hop * hop + 1
    frames = [x[:, i : i + span : hop] for i in range(length)]

    def over_space(frames: Array, kernel: Array) -> Array:
        n, t, *sides = frames.shape
        y = _convolve(frames.reshape(n * t, *sides), kernel, stride[1:], pads[1:], groups)
        return y.reshape(n, t, *y.shape[1:])

    if groups > 1 and kernel.shape[1:3] == stride[1:] == (1, 1) and not any(map(any, pads[1:])):
        taps = zip(frames, kernel[:, 0, 0], strict=True)
        parts = [_multiply_groups(*each, groups) for each in taps]
        return sum(parts[1:], parts[0])
    if length * channels <= 16 and groups == 1:  # a stem: frames as more colours
        return over_space(jnp.concatenate(frames, axis=-1), jnp.concatenate([*kernel], axis=2))
    parts = [over_space(each, tap) for each, tap in zip(frames, kernel, strict=True)]
    return sum(parts[1:], parts[0])


def _multiply_groups(x: Array, kernel: Array, groups: int) -> Array:
    """A matrix product for each group of channels."""
    own = kernel.reshape(kernel.shape[0], groups, -1)
    y = jnp.einsum("...gi,igo->...go", x.reshape(*x.shape[:-1], groups, -1), own)
    return y.reshape(*x.shape[:-1], -1)


def _convolve(
    x: Array, kernel: Array, stride: Sequence[int], pads: Sequence[tuple[int, int]], groups: int
) -> Array:
    if any(side < k for side, k in zip(x.shape[1:], kernel.shape[:-2], strict=False)):
        # XLA would take the map for the kernel, which is slow on CPUs; padding alone is undone.
        x = jax.lax.optimization_barrier(jnp.pad(x, [(0, 0), *pads, (0, 0)]))
        pads = [(0, 0)] * len(pads)
    axes = ("NHWC", "HWIO", "NHWC") if x.ndim == 4 else ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(
        *(x, kernel, stride, pads), dimension_numbers=axes, feature_group_count=groups
    )
