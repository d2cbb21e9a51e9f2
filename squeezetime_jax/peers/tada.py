"""TAda2D: 2-D convolutions whose kernels are calibrated for each frame.

Huang et al. 2022, arXiv 2110.06178. There is no max-pool after the stem; all four stages halve
height and width.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.layers import initialise, uniform_param
from squeezetime_jax.model.norm import BatchNorm
from squeezetime_jax.peers.entry import Released
from squeezetime_jax.peers.layers import Conv, ConvNorm, Head, Network, Triple, check_clips
from squeezetime_jax.peers.resnet import BLOCKS, Backbone, Block, ResNetConfig


class TAda2D(Network):
    """TAda2D, for any number of frames. `features` is (n, t, h/32, w/32, c)."""

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        self.config = config
        block = AdaptiveBottleneck if config.expansion == 4 else AdaptiveBasicBlock
        self.backbone = Backbone(config, block)
        self.head = Head(config.feature_channels[-1], config, std=config.head_std)
        initialise(self, rngs)

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the four stages end with."""
        return self.backbone(check_clips(clips, self.config))


class AdaptiveBasicBlock(Block):
    """Two calibrated convolutions, each followed by both batch norms."""

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        super().__init__(in_features, planes, stride, extent, config)
        self.conv1 = CalibratedConv(in_features, planes, stride, config)
        self.norm1 = PooledNorm(planes, config)
        self.conv2 = CalibratedConv(planes, planes, (1, 1, 1), config)
        self.norm2 = PooledNorm(planes, config)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t fh fw o"]:
        """The block's residual branch."""
        return self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))


class AdaptiveBottleneck(Block):
    """Narrow, convolve by calibrated kernels, widen."""

    def __init__(
        self, in_features: int, planes: int, stride: Triple, extent: int, config: ResNetConfig
    ):
        super().__init__(in_features, planes, stride, extent, config)
        self.reduce = ConvNorm(in_features, planes, 1, config, activation=jax.nn.relu)
        self.conv = CalibratedConv(planes, planes, stride, config)
        self.norm = PooledNorm(planes, config)
        self.expand = ConvNorm(planes, 4 * planes, 1, config)

    def residual(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t fh fw o"]:
        """The block's residual branch."""
        return self.expand(jax.nn.relu(self.norm(self.conv(self.reduce(x)))))


class CalibratedConv(nnx.Module):
    """TAdaConv: a 3x3 convolution whose kernel is scaled for each clip, frame and input channel.

    The scales start at 1. They are computed from the means over space (h) and over space and time
    (g) by two convolutions over time. Scaling the input is the same as scaling the kernel.
    """

    def __init__(self, in_features: int, out_features: int, stride: Triple, config: ResNetConfig):
        self.conv = Conv(in_features, out_features, 3, config, stride=stride)
        # The release's kernel has two leading axes of length 1, by which PyTorch's default counts
        # the outputs as inputs too.
        bound = 1 / math.sqrt(9 * in_features * out_features)
        self.conv.kernel = uniform_param(self.conv.kernel.shape, bound, config)
        hidden = in_features // 4
        zeros = jnp.zeros(in_features, config.param_dtype)
        self.of_clip = Conv(in_features, in_features, 1, config, bias=True)
        self.of_clip.bias = nnx.Param(zeros)
        self.hidden = Conv(in_features, hidden, (3, 1, 1), config, bias=True)
        self.hidden.bias = nnx.Param(zeros[:hidden])
        self.norm = BatchNorm(hidden, config)
        self.out = Conv(hidden, in_features, (3, 1, 1), config)
        self.out.kernel = nnx.Param(jnp.zeros(self.out.kernel.shape, config.param_dtype))

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t fh fw o"]:
        """Calibrate and convolve."""
        of_frame = jnp.mean(x, (2, 3), keepdims=True)
        pooled = of_frame + self.of_clip(jnp.mean(of_frame, 1, keepdims=True))
        scale = 1 + self.out(jax.nn.relu(self.norm(self.hidden(pooled))))
        return self.conv(x * scale)


class PooledNorm(nnx.Module):
    """A batch norm of the map, plus one of its average over three frames, which starts at 0.

    Beyond the ends of the clip there are zeros, and the average counts them.
    """

    def __init__(self, num_features: int, config: ResNetConfig):
        self.norm = BatchNorm(num_features, config)
        self.pooled = BatchNorm(num_features, config)
        self.pooled.scale = nnx.Param(jnp.zeros(num_features, config.param_dtype))

    def __call__(self, x: Float[Array, "n t h w c"]) -> Float[Array, "n t h w c"]:
        """Normalise both and add them."""
        t = x.shape[1]
        padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        average = (padded[:, :t] + x + padded[:, 2:]) / 3
        return self.norm(x) + self.pooled(average)


def released(config: ResNetConfig) -> Iterator[Released]:
    """The modules of a state dict of TAdaConv."""
    yield Released("backbone.conv1.a", "backbone.stem.conv", "conv")
    yield Released("backbone.conv1.a_bn", "backbone.stem.norm", "norm")
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        for index in range(blocks):
            name = f"backbone.conv{stage + 2}.res_{index + 1}"
            path = f"backbone.stages.{stage}.{index}"
            yield Released(f"{name}.short_cut", f"{path}.shortcut.conv", "conv")
            yield Released(f"{name}.short_cut_bn", f"{path}.shortcut.norm", "norm")
            name += ".conv_branch"
            if config.expansion == 1:
                yield from _released_calibrated(f"{name}.a", f"{path}.conv1", f"{path}.norm1")
                yield from _released_calibrated(f"{name}.b", f"{path}.conv2", f"{path}.norm2")
            else:
                yield Released(f"{name}.a", f"{path}.reduce.conv", "conv")
                yield Released(f"{name}.a_bn", f"{path}.reduce.norm", "norm")
                yield from _released_calibrated(f"{name}.b", f"{path}.conv", f"{path}.norm")
                yield Released(f"{name}.c", f"{path}.expand.conv", "conv")
                yield Released(f"{name}.c_bn", f"{path}.expand.norm", "norm")
    yield Released("head.out", "head.classifier", "linear")


def _released_calibrated(name: str, path: str, norm: str) -> Iterator[Released]:
    yield Released(name, f"{path}.conv", "calibrated")
    yield Released(f"{name}_rf.g", f"{path}.of_clip", "conv")
    yield Released(f"{name}_rf.a", f"{path}.hidden", "conv")
    yield Released(f"{name}_rf.bn", f"{path}.norm", "norm")
    yield Released(f"{name}_rf.b", f"{path}.out", "conv")
    yield Released(f"{name}_bn", f"{norm}.norm", "norm")
    yield Released(f"{name}_avgpool_bn", f"{norm}.pooled", "norm")
