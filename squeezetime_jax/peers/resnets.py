"""The residual networks of the register, as rows: an idea, what it changes, and its sizes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from squeezetime_jax.peers import resnet, slowfast, tada, tpn
from squeezetime_jax.peers.entry import GREY, HALF, Entry, Input
from squeezetime_jax.peers.resnet import ResNet, ResNetConfig

SEGMENTS = Input(sampling="segments", crop_side=224, num_crops=10, num_clips=1)
EVERY_8TH = Input(frame_interval=8)
SLOW = ResNetConfig(
    name="slowonly", num_frames=8, inflate=((0,), (0,), (1,), (1,)), zero_residual=True
)
FOLDED = ResNetConfig(name="tsm", num_frames=8, per_frame=True, head_std=0.001, is_2d=True)


@dataclasses.dataclass(frozen=True)
class Size:
    """A size of a network: its name, its depth, and where its configuration and input differ."""

    name: str
    title: str
    depth: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    input: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _family(
    year: int,
    idea: str,
    config: ResNetConfig,
    input: Input,
    *sizes: Size,
    build: Callable[[Any, Any], Any] = ResNet,
    released: Callable[[Any], Iterator[Any]] = resnet.released,
) -> Iterator[Entry]:
    """The entries of one network at several sizes; `config` and `input` are what they share."""
    for size in sizes:
        changes = {"name": size.name, "depth": size.depth, **size.config}
        yield Entry(
            title=size.title,
            year=year,
            idea=idea,
            config=dataclasses.replace(config, **changes),
            build=build,
            input=dataclasses.replace(input, **size.input),
            released=(released,),
        )


ENTRIES = (
    *_family(
        *(2016, "frames of all parts of the video are scored and averaged"),
        ResNetConfig(name="tsn", num_frames=3, dropout=0.4, is_2d=True),
        dataclasses.replace(SEGMENTS, test_frames=25),
        Size("tsn_r34", "TSN-R34", 34),
        Size("tsn_r50", "TSN-R50", 50),
    ),
    *_family(
        *(2018, "an image network over frames, with one halving of time"),
        ResNetConfig(name="c2d", num_frames=8, pool_padding=0, halve_after_stage1=True, is_2d=True),
        EVERY_8TH,
        Size("c2d_r34", "C2D-R34", 34, input={"short_side": 224, "crop_side": 224}),
        Size("c2d_r50", "C2D-R50", 50),
    ),
    *_family(
        *(2017, "kernels of an image network are inflated in time"),
        ResNetConfig(
            name="i3d",
            num_frames=32,
            stem_kernel=(5, 7, 7),
            stem_stride=(2, 2, 2),
            pool_stride=(2, 2, 2),
            halve_after_stage1=True,
        ),
        Input(frame_interval=2),
        Size("i3d_r18", "I3D-R18", 18, {"inflate": ((1,), (1,), (1,), (1,))}),
        Size("i3d_r50", "I3D-R50", 50, {"inflate": ((1,), (1, 0), (1, 0), (0, 1))}),
    ),
    *_family(
        *(2018, "every 3-D convolution is one over space and one over time"),
        ResNetConfig(
            name="r2plus1d",
            num_frames=8,
            stem_kernel=(3, 7, 7),
            inflate=((1,), (1,), (1,), (1,)),
            temporal_strides=(1, 2, 2, 2),
            temporal="factored",
            epsilon=1e-3,
        ),
        EVERY_8TH,
        Size("r2plus1d_r18", "R(2+1)D-R18", 18),
        Size("r2plus1d_r34", "R(2+1)D-R34", 34),
    ),
    *_family(
        *(2019, "SlowFast's slow path: kernels extend in time in the late stages"),
        *(SLOW, EVERY_8TH),
        Size("slowonly_r18", "SlowOnly-R18", 18),
        Size("slowonly_r50", "SlowOnly-R50", 50),
    ),
    *_family(
        *(2019, "a share of the channels moves one frame forwards or back"),
        dataclasses.replace(FOLDED, temporal="shift"),
        SEGMENTS,
        Size("tsm_r18", "TSM-R18", 18),
        Size("tsm_r34", "TSM-R34", 34),
        Size("tsm_r50", "TSM-R50", 50),
    ),
    *_family(
        *(2020, "groups of channels move in time by learned distances"),
        dataclasses.replace(FOLDED, temporal="interlace"),
        dataclasses.replace(SEGMENTS, num_crops=1),
        Size("tin_r34", "TIN-R34", 34, input={"mean": HALF[0], "std": HALF[1]}),
        Size("tin_r50", "TIN-R50", 50),
    ),
    *_family(
        *(2021, "frames are gated and mixed by kernels computed from the clip"),
        dataclasses.replace(FOLDED, temporal="adaptive"),
        dataclasses.replace(EVERY_8TH, mean=(123.675, 116.28, 103.5)),
        Size("tanet_r18", "TANet-R18", 18),
        Size("tanet_r50", "TANet-R50", 50),
    ),
    *_family(
        *(2019, "a slow path of many channels and a fast path of many frames"),
        slowfast.SlowFastConfig(name="slowfast", num_frames=32),
        Input(frame_interval=2),
        Size("slowfast_r18", "SlowFast-R18", 18),
        Size("slowfast_r50_4x16", "SlowFast-R50 4x16", 50),
        build=slowfast.SlowFast,
        released=slowfast.released,
    ),
    *_family(
        *(2020, "a pyramid of tempos over the last two stages of SlowOnly"),
        *(SLOW, EVERY_8TH),
        Size("tpn_r18", "TPN-R18", 18),
        Size("tpn_r50", "TPN-R50", 50),
        build=tpn.TPN,
        released=tpn.released,
    ),
    *_family(
        *(2022, "2-D kernels are calibrated for each frame"),
        ResNetConfig(name="tada", num_frames=8, pool_stride=None, strides=(2, 2, 2, 2)),
        dataclasses.replace(EVERY_8TH, mean=GREY[0], std=GREY[1]),
        Size("tada_r18", "TAda-R18", 18),
        Size("tada2d_r50", "TAda2D-R50", 50),
        build=tada.TAda2D,
        released=tada.released,
    ),
)
