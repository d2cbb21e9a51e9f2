"""E3D: Maximizing Spatio-Temporal Entropy of Deep 3D CNNs for Efficient Video Recognition.

Wang et al. 2023, arXiv 2303.02693.
"""

import dataclasses
from collections.abc import Iterator

from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.layers import initialise
from squeezetime_jax.peers.entry import Entry, Input, Released, spelled, table
from squeezetime_jax.peers.layers import ConvNorm, Head
from squeezetime_jax.peers.mobile import (
    InvertedBottleneck,
    MobileConfig,
    MobileNetwork,
    Size,
    Stage,
    alike,
    halved,
    make_stages,
    relu,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class E3DConfig(MobileConfig):
    """E3D, by default XS."""

    name: str = "e3d_xs"
    num_frames: int = 16
    stem: int = 24
    stages: tuple[Stage, ...] = (
        alike(3, 32, 24, (1, 5, 5), 2),
        alike(6, 96, 48, (3, 3, 3), 2),
        alike(6, 176, 120, (3, 3, 3), 2),
        alike(6, 176, 120, (3, 3, 3), 1),
        alike(6, 384, 256, (3, 3, 3), 2),
    )
    last: int = 512


class E3D(MobileNetwork):
    """E3D: no channel is weighed, and a block that changes the width has no shortcut."""

    def __init__(self, config: E3DConfig, rngs: nnx.Rngs):
        self.config = config
        self.stem = ConvNorm(3, config.stem, 3, config, stride=2, activation=relu)
        self.stages = make_stages(E3DBlock, config.stem, config.stages, config)
        width = config.stages[-1][-1][1]
        self.last = ConvNorm(width, config.last, 1, config, activation=relu)
        self.head = Head(config.last, config)
        initialise(self, rngs)


class E3DBlock(nnx.Module):
    """An inverted bottleneck; its shortcut averages 1x2x2 pixels where the stride is 2."""

    def __init__(self, size: Size, config: E3DConfig):
        self.residual = InvertedBottleneck(size, config, activations=(relu, relu, None))
        self.stride = size.stride
        self.has_shortcut = size.in_features == size.out_features

    def __call__(self, x: Float[Array, "n t h w i"]) -> Float[Array, "n t fh fw o"]:
        """Add the residual to the shortcut, if there is one.

        Raises:
          ValueError: the shortcut would halve an odd height or width.
        """
        residual = self.residual(x)
        if not self.has_shortcut:
            return relu(residual)
        if self.stride != 1:
            if x.shape[2] % 2 or x.shape[3] % 2:
                raise ValueError(
                    "E3D halves maps of even height and width only, got "
                    f"{x.shape[2]}x{x.shape[3]}; sides of clips must be multiples of 4"
                )
            x = halved(x, 2, [(0, 0), (0, 0)])
        return relu(residual + x)


# Names as the authors' blocks have them; no file is public.
_E3D_BLOCK = table("""
    stages.{stage}.{block}.residual.  -       backbone.block_list.{place}.block_list.{block}.
    widen.conv                        conv    conv1.conv1
    widen.norm                        norm    conv1.bn1
    depthwise.conv                    conv    conv2.conv1
    depthwise.norm                    norm    conv2.bn1
    narrow.conv                       conv    conv3.conv1
    narrow.norm                       norm    conv3.bn1
""")
_E3D_CONV = table("""
    -                                 -       backbone.block_list.{place}.
    {path}.conv                       conv    conv1
    {path}.norm                       norm    bn1
""")


def _e3d_released(config: E3DConfig) -> Iterator[Released]:
    yield from spelled(_E3D_CONV, 0, place=0, path="stem")
    for stage, blocks in enumerate(config.stages):
        for block in range(len(blocks)):
            yield from spelled(_E3D_BLOCK, 0, stage=stage, place=stage + 1, block=block)
    yield from spelled(_E3D_CONV, 0, place=len(config.stages) + 1, path="last")
    yield Released("cls_head.fc_cls", "head.classifier", "linear")


ENTRIES = (
    Entry(
        title="E3D-XS",
        year=2023,
        idea="inverted bottlenecks whose sizes maximise the entropy of the feature maps",
        config=E3DConfig(),
        build=E3D,
        input=Input(frame_interval=4, short_side=224, crop_side=160, train_side=160),
        released=(_e3d_released,),
    ),
)
