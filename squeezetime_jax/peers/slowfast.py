"""SlowFast: one path sees few frames, another with few channels sees all of them.

Feichtenhofer et al. 2019, arXiv 1812.03982.

    every 8th frame -> 64 channels  ------------(+)---(+)---(+)---(+)---->  mean
    every frame     ->  8 channels  -----o-------|-----o-----|-----|----->  mean,  concatenated
"""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.layers import initialise
from squeezetime_jax.peers.entry import Released
from squeezetime_jax.peers.layers import Conv, Head, Network, check_clips
from squeezetime_jax.peers.resnet import Backbone, Pattern, ResNetConfig, released_backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlowFastConfig(ResNetConfig):
    """SlowFast; the fields of `ResNetConfig` are those of the slow path.

    Attributes:
      ratio: frames of the fast path over those of the slow path.
      channel_ratio: channels of the slow path over those of the fast path.
    """

    inflate: tuple[Pattern, Pattern, Pattern, Pattern] = ((0,), (0,), (1,), (1,))
    zero_residual: bool = True
    ratio: int = 8
    channel_ratio: int = 8

    @property
    def fast(self) -> ResNetConfig:
        """The fast path's configuration."""
        return dataclasses.replace(
            self,
            width=self.width // self.channel_ratio,
            stem_kernel=(5, 7, 7),
            inflate=((1,), (1,), (1,), (1,)),
        )


class SlowFast(Network):
    """SlowFast. The number of frames must be a multiple of `config.ratio`.

    `features` is (n, slow frames, h/32, w/32, channels): the fast path's channels, averaged over
    the frames that fall on one of the slow path's, then the slow path's. `stage_maps` gives each
    stage's map in this form.
    """

    config: SlowFastConfig

    def __init__(self, config: SlowFastConfig, rngs: nnx.Rngs):
        self.config = config
        fast = config.fast
        reads = (fast.width, *fast.feature_channels[:3])
        self.slow = Backbone(config, lateral=[2 * channels for channels in reads])
        self.fast = Backbone(fast)
        self.laterals = nnx.List(
            [
                Conv(channels, 2 * channels, (5, 1, 1), config, stride=(config.ratio, 1, 1))
                for channels in reads
            ]
        )
        features = fast.feature_channels[-1] + config.feature_channels[-1]
        self.head = Head(features, config, std=config.head_std)
        initialise(self, rngs)

    def stage_maps(self, clips: Float[Array, "n t h w 3"]) -> list[Float[Array, "n _ _ _ _"]]:
        """The feature maps of both paths after each stage, concatenated."""
        clips = check_clips(clips, self.config)
        ratio = self.config.ratio
        if clips.shape[1] % ratio:
            raise ValueError(
                f"{self.config.name}: the number of frames must be a multiple of {ratio}, "
                f"got {clips.shape[1]}"
            )
        slow, fast = self.slow.enter(clips[:, ::ratio]), self.fast.enter(clips)
        maps = []
        for stage, lateral in enumerate(self.laterals):
            slow = jnp.concatenate([slow, lateral(fast)], axis=-1)
            slow, fast = self.slow.run_stage(stage, slow), self.fast.run_stage(stage, fast)
            n, t, h, w, c = fast.shape
            grouped = fast.reshape(n, t // ratio, ratio, h, w, c)
            maps.append(jnp.concatenate([jnp.mean(grouped, 2), slow], axis=-1))
        return maps


def released(config: SlowFastConfig) -> Iterator[Released]:
    """The modules of a state dict of mmaction2."""
    yield from released_backbone(config, "backbone.slow_path", "slow")
    for i, name in enumerate(("conv1", "layer1", "layer2", "layer3")):
        yield Released(f"backbone.slow_path.{name}_lateral.conv", f"laterals.{i}", "conv")
    yield from released_backbone(config.fast, "backbone.fast_path", "fast")
    yield Released("cls_head.fc_cls", "head.classifier", "linear")
