"""The residual networks of the register, as rows: an idea, what it changes, and its sizes."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from squeezetime_jax.peers.entry import HALF, Entry, Input, Published
from squeezetime_jax.peers.layers import Triple
from squeezetime_jax.peers.resnet import ResNet, ResNetConfig, released

SEGMENTS = Input(sampling="segments", crop_side=224, num_crops=10, num_clips=1)
EVERY_8TH = Input(frame_interval=8)
APACHE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class Size:
    """A depth of a network, its figures, and where its configuration and input differ."""

    depth: int
    published: Published
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    input: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _public(parameters: int, multiply_adds: int, clip: Triple, file: str) -> Published:
    """The figures of a network whose weights are public."""
    return Published(parameters, multiply_adds, clip, weights=(file,), licence=APACHE)


def _family(
    title: str, year: int, idea: str, config: ResNetConfig, input: Input, *sizes: Size
) -> Iterator[Entry]:
    """The entries of one network at several depths; `config` and `input` are what they share."""
    for size in sizes:
        name = f"{config.name}_r{size.depth}"
        changes = {"name": name, "depth": size.depth, **size.config}
        yield Entry(
            name=name,
            title=f"{title}-R{size.depth}",
            year=year,
            idea=idea,
            config=dataclasses.replace(config, **changes),
            build=ResNet,
            input=dataclasses.replace(input, **size.input),
            published=size.published,
            released=(released,),
        )


ENTRIES = (
    *_family(
        *("TSN", 2016, "frames of all parts of the video are scored and averaged"),
        ResNetConfig(name="tsn", num_frames=3, dropout=0.4, is_2d=True),
        dataclasses.replace(SEGMENTS, test_frames=25),
        Size(34, Published(21_489_872, 91_581_440_000, (25, 224, 224), "TSN-R34", 636)),
        Size(
            50,
            _public(
                24_327_632,
                12_262_227_968,
                (3, 224, 224),
                "tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb_20220906-cd10898e.pth",
            ),
        ),
    ),
    *_family(
        *("C2D", 2018, "an image network over frames, with one halving of time"),
        ResNetConfig(name="c2d", num_frames=8, pool_padding=0, halve_after_stage1=True, is_2d=True),
        EVERY_8TH,
        Size(
            34,
            Published(21_489_872, 17_703_378_944, (8, 224, 224), "C2d-R34", 205),
            input={"short_side": 224, "crop_side": 224},
        ),
        Size(
            50,
            _public(
                24_327_632,
                19_289_505_792,
                (8, 224, 224),
                "c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb_20221027-3ca304fa.pth",
            ),
        ),
    ),
    *_family(
        *("I3D", 2017, "kernels of an image network are inflated in time"),
        ResNetConfig(
            name="i3d",
            num_frames=32,
            stem_kernel=(5, 7, 7),
            stem_stride=(2, 2, 2),
            pool_stride=(2, 2, 2),
            halve_after_stage1=True,
        ),
        Input(frame_interval=2),
        Size(
            18,
            Published(33_390_288, 45_952_999_424, (32, 256, 256), "I3d-R18", 450),
            config={"inflate": ((1,), (1,), (1,), (1,))},
        ),
        Size(
            50,
            _public(
                28_043_472,
                33_128_218_624,
                (32, 224, 224),
                "i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb_20220812-e213c223.pth",
            ),
            config={"inflate": ((1,), (1, 0), (1, 0), (0, 1))},
        ),
    ),
    *_family(
        *("R(2+1)D", 2018, "every 3-D convolution is one over space and one over time"),
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
        Size(18, Published(33_432_945, 30_328_627_200, (8, 256, 256), "R2plus1d-R18", 510)),
        Size(
            34,
            Published(
                *(63_759_281, 52_977_868_800, (8, 256, 256), "R2plus1d-R34", 748),
                weights=("r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb_20220812-47cfe041.pth",),
                licence=APACHE,
                top1=69.76,
            ),
        ),
    ),
    *_family(
        *("SlowOnly", 2019, "SlowFast's slow path: kernels extend in time in the late stages"),
        ResNetConfig(
            name="slowonly", num_frames=8, inflate=((0,), (0,), (1,), (1,)), zero_residual=True
        ),
        EVERY_8TH,
        Size(18, Published(32_025_552, 35_861_504_000, (8, 256, 256), "SlowOnly-R18", 303)),
        Size(
            50,
            _public(
                32_454_096,
                41_740_828_672,
                (8, 224, 224),
                "slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb_20220901-2132fc87.pth",
            ),
        ),
    ),
    *_family(
        *("TSM", 2019, "a share of the channels moves one frame forwards or back"),
        ResNetConfig(
            name="tsm", num_frames=8, temporal="shift", per_frame=True, head_std=0.001, is_2d=True
        ),
        SEGMENTS,
        Size(18, Published(11_381_712, 18_951_503_872, (8, 256, 256), "TSM-R18", 186)),
        Size(34, Published(21_489_872, 29_307_633_664, (8, 224, 224), "TSM-R34", 186)),
        Size(
            50,
            _public(
                24_327_632,
                32_703_643_648,
                (8, 224, 224),
                "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb_20220831-64d69186.pth",
            ),
        ),
    ),
    *_family(
        *("TIN", 2020, "groups of channels move in time by learned distances"),
        ResNetConfig(
            name="tin",
            num_frames=8,
            temporal="interlace",
            per_frame=True,
            head_std=0.001,
            is_2d=True,
        ),
        dataclasses.replace(SEGMENTS, num_crops=1),
        Size(
            34,
            Published(21_498_848, 29_307_694_848, (8, 224, 224), "TIN-R34", 345),
            input={"mean": HALF[0], "std": HALF[1]},
        ),
        Size(
            50,
            _public(
                24_358_640,
                32_703_881_088,
                (8, 224, 224),
                "tin_kinetics400-pretrained-tsm-r50_1x1x8-50e_kinetics400-rgb_20220913-7f10d0c0.pth",
            ),
        ),
    ),
    *_family(
        *("TANet", 2021, "frames are gated and mixed by kernels computed from the clip"),
        ResNetConfig(
            name="tanet",
            num_frames=8,
            temporal="adaptive",
            per_frame=True,
            head_std=0.001,
            is_2d=True,
        ),
        dataclasses.replace(EVERY_8TH, mean=(123.675, 116.28, 103.5)),
        Size(18, Published(11_822_384, 18_984_367_104, (8, 256, 256), "TANet-R18", 192)),
        Size(
            50,
            _public(
                25_590_320,
                32_760_128_512,
                (8, 224, 224),
                "tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_kinetics400-rgb_20220919-a34346bc.pth",
            ),
        ),
    ),
)
