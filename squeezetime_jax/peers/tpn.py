"""TPN: a pyramid of tempos over the last two stages of SlowOnly.

Yang et al. 2020, arXiv 2004.03548. Both levels get the same size and the same tempo; then
information flows down (deep to shallow) and up again, and both flows are fused.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.layers import initialise, uniform_param
from squeezetime_jax.peers.entry import Released
from squeezetime_jax.peers.layers import Conv, ConvNorm, Head, Network, check_clips, max_pool
from squeezetime_jax.peers.resnet import Backbone, ResNetConfig, released_backbone

GROUPS = 32
TEMPO = 8  # frames of the backbone over those of the pyramid
FUSED = 2048  # channels that leave the pyramid
AUXILIARY_WEIGHT = 0.5  # of the auxiliary head's cross-entropy in the loss


class TPN(Network):
    """TPN. `features` is the pyramid's map (n, ceil(t/8), h/32, w/32, 2048)."""

    def __init__(self, config: ResNetConfig, rngs: nnx.Rngs):
        self.config = config
        self.backbone = Backbone(config)
        self.neck = Pyramid(config)
        self.head = Head(FUSED, config, std=config.head_std)
        initialise(self, rngs)

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps that the backbone's four stages end with."""
        return self.backbone(check_clips(clips, self.config))

    def features(self, clips: Float[Array, "n t h w 3"]) -> Float[Array, "n ft fh fw c"]:
        """The pyramid's map."""
        return self.neck(*self.stage_maps(clips)[-2:])

    def with_auxiliary(
        self, clips: Float[Array, "n t h w 3"], rngs: nnx.Rngs | Array | None = None
    ) -> tuple[Float[Array, "n classes"], list[tuple[float, Float[Array, "n classes"]]]]:
        """Logits, and those of the auxiliary head on the third stage with their loss's weight."""
        *_, shallow, deep = self.stage_maps(clips)
        logits = self.head(self.neck(shallow, deep), rngs)
        return logits, [(AUXILIARY_WEIGHT, self.neck.auxiliary(shallow, rngs))]


class Pyramid(nnx.Module):
    """The temporal pyramid over two maps, and its auxiliary head."""

    def __init__(self, config: ResNetConfig):
        shallow, deep = config.feature_channels[-2:]
        relu = jax.nn.relu
        self.resize = ConvNorm(shallow, deep, 3, config, stride=2, activation=relu)
        self.tempo = nnx.List(
            [Conv(deep, shallow, (3, 1, 1), config, groups=GROUPS) for _ in range(2)]
        )
        self.upwards = Conv(shallow, shallow, (3, 1, 1), config)
        self.fuse_down, self.fuse_up = Fusion(shallow, config), Fusion(shallow, config)
        self.fuse = ConvNorm(4 * shallow, FUSED, 1, config, activation=relu)
        self.auxiliary = AuxiliaryHead(shallow, config)
        for _, module in nnx.iter_modules(self):
            if isinstance(module, Conv):
                _make_glorot(module, config)

    def __call__(
        self, shallow: Float[Array, "n t h w s"], deep: Float[Array, "n t fh fw d"]
    ) -> Float[Array, "n ft fh fw o"]:
        """Fuse two maps, of which the second is half as large."""
        levels = [self.resize(shallow), deep]
        low, high = (self._slow_down(conv(x)) for conv, x in zip(self.tempo, levels, strict=True))
        low = low + high
        down = self.fuse_down(low, high)
        up = self.fuse_up(low, high + self.upwards(low))
        return self.fuse(jnp.concatenate([down, up], axis=-1))

    @staticmethod
    def _slow_down(x: Float[Array, "n t h w c"]) -> Float[Array, "n ft h w c"]:
        """The maximum over every 8 frames; the last may be of fewer."""
        missing = -x.shape[1] % TEMPO
        x = jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * 3), constant_values=-jnp.inf)
        return max_pool(x, (TEMPO, 1, 1), (TEMPO, 1, 1))


class Fusion(nnx.Module):
    """Both levels, each through a grouped convolution, concatenated and mixed."""

    def __init__(self, num_features: int, config: ResNetConfig):
        self.levels = nnx.List(
            [
                ConvNorm(
                    *(num_features, num_features, 1, config),
                    groups=GROUPS,
                    activation=jax.nn.relu,
                )
                for _ in range(2)
            ]
        )
        channels = 2 * num_features
        self.mix = ConvNorm(channels, channels, 1, config, activation=jax.nn.relu)

    def __call__(
        self, low: Float[Array, "n t h w c"], high: Float[Array, "n t h w c"]
    ) -> Float[Array, "n t h w 2*c"]:
        """Fuse."""
        return self.mix(jnp.concatenate([self.levels[0](low), self.levels[1](high)], axis=-1))


class AuxiliaryHead(nnx.Module):
    """A classifier of the third stage's map; used in training only."""

    def __init__(self, num_features: int, config: ResNetConfig):
        self.conv = ConvNorm(
            *(num_features, 2 * num_features, 3, config), stride=2, activation=jax.nn.relu
        )
        self.head = Head(2 * num_features, config)

    def __call__(
        self, x: Float[Array, "n t h w c"], rngs: nnx.Rngs | Array | None = None
    ) -> Float[Array, "n classes"]:
        """Logits of a map."""
        return self.head(self.conv(x), rngs)


def _make_glorot(conv: Conv, config: ResNetConfig) -> None:
    """Let a convolution start uniform, as the published pyramid does."""
    *taps, fan_in, out = conv.kernel.shape
    bound = math.sqrt(6 / (math.prod(taps) * (fan_in + out)))
    conv.kernel = uniform_param(conv.kernel.shape, bound, config)


def released(config: ResNetConfig) -> Iterator[Released]:
    """The modules of a state dict of mmaction2."""
    yield from released_backbone(config, "backbone", "backbone")
    for i in range(2):
        yield Released(f"neck.temporal_modulation_ops.{i}.conv.conv", f"neck.tempo.{i}", "conv")
    yield Released("neck.downsample_ops.0.conv.conv", "neck.upwards", "conv")
    yield from _released_fusion("neck.level_fusion_1", "neck.fuse_down")
    yield from _conv_norm("neck.spatial_modulation.spatial_modulation.0.0", "neck.resize")
    yield from _released_fusion("neck.level_fusion_2", "neck.fuse_up")
    yield from _conv_norm("neck.pyramid_fusion", "neck.fuse")
    yield from _conv_norm("neck.aux_head.conv", "neck.auxiliary.conv")
    yield Released("neck.aux_head.fc", "neck.auxiliary.head.classifier", "linear")
    yield Released("cls_head.fc_cls", "head.classifier", "linear")


def _released_fusion(name: str, path: str) -> Iterator[Released]:
    for i in range(2):
        yield from _conv_norm(f"{name}.downsamples.{i}.conv", f"{path}.levels.{i}")
    yield from _conv_norm(f"{name}.fusion_conv", f"{path}.mix")


def _conv_norm(name: str, path: str) -> Iterator[Released]:
    yield Released(f"{name}.conv", f"{path}.conv", "conv")
    yield Released(f"{name}.bn", f"{path}.norm", "norm")
