"""The published figures of every network of the register, a row a network.

A row: name, parameters, multiply-adds, the clip that these are of, the paper's milliseconds a clip
on a CPU (Table 7), Kinetics accuracy that is published with the first weight file, the licence of
the files; "-" is for nothing. Below a row stand the public weight files that the network reads.
"""

import re
from dataclasses import dataclass

_TABLE = """
squeezetime            29_706_688    5_482_892_032  16x224x224  123  71.64  -
tsn_r34                21_489_872   91_581_440_000  25x224x224  636      -  -
tsn_r50                24_327_632   12_262_227_968  3x224x224     -      -  Apache-2.0
  tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb_20220906-cd10898e.pth
c2d_r34                21_489_872   17_703_378_944  8x224x224   205      -  -
c2d_r50                24_327_632   19_289_505_792  8x224x224     -      -  Apache-2.0
  c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb_20221027-3ca304fa.pth
i3d_r18                33_390_288   45_952_999_424  32x256x256  450      -  -
i3d_r50                28_043_472   33_128_218_624  32x224x224    -      -  Apache-2.0
  i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb_20220812-e213c223.pth
r2plus1d_r18           33_432_945   30_328_627_200  8x256x256   510      -  -
r2plus1d_r34           63_759_281   52_977_868_800  8x256x256   748  69.76  Apache-2.0
  r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb_20220812-47cfe041.pth
slowonly_r18           32_025_552   35_861_504_000  8x256x256   303      -  -
slowonly_r50           32_454_096   41_740_828_672  8x224x224     -      -  Apache-2.0
  slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb_20220901-2132fc87.pth
tsm_r18                11_381_712   18_951_503_872  8x256x256   186      -  -
tsm_r34                21_489_872   29_307_633_664  8x224x224   238      -  -
tsm_r50                24_327_632   32_703_643_648  8x224x224     -      -  Apache-2.0
  tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb_20220831-64d69186.pth
tin_r34                21_498_848   29_307_694_848  8x224x224   345      -  -
tin_r50                24_358_640   32_703_881_088  8x224x224     -      -  Apache-2.0
  tin_kinetics400-pretrained-tsm-r50_1x1x8-50e_kinetics400-rgb_20220913-7f10d0c0.pth
tanet_r18              11_822_384   18_984_367_104  8x256x256   192      -  -
tanet_r50              25_590_320   32_760_128_512  8x224x224     -      -  Apache-2.0
  tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_kinetics400-rgb_20220919-a34346bc.pth
slowfast_r18           33_771_768   25_140_888_576  32x256x256  604      -  -
slowfast_r50_4x16      34_479_288   27_638_665_216  32x224x224    -      -  Apache-2.0
  slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb_20220901-701b0f6f.pth
tpn_r18                38_065_504   36_659_560_448  8x256x256   344      -  -
tpn_r50                91_498_336   50_276_368_384  8x224x224     -      -  Apache-2.0
  tpn-slowonly_imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb_20220913-fed3f4c1.pth
  tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb_20220913-97d0835d.pth
tada_r18               14_236_032   19_099_037_696  8x256x256   767      -  -
tada2d_r50             27_485_472   33_022_537_728  8x224x224     -      -  Apache-2.0
x3d_xs                  3_794_322      838_807_664  4x182x182   219   69.5  Apache-2.0
  x3d_xs.pyth
x3d_s                   3_794_322    2_721_933_356  13x182x182    -   73.2  Apache-2.0
  x3d_s_13x6x1_facebook-kinetics400-rgb_20201027-623825a0.pth
x3d_m                   3_794_322    6_180_613_376  16x256x256    -   75.6  Apache-2.0
  x3d_m_16x5x1_facebook-kinetics400-rgb_20201027-3f42382a.pth
x3d_xs_hub              3_794_274      605_256_512  4x160x160     -  69.12  Apache-2.0
  X3D_XS.pyth
movinet_a0              2_701_999    2_630_324_208  50x172x172  505  72.28  MIT
  modelA0_statedict_v3
e3d_xs                  2_181_432    2_293_964_800  16x160x160  313      -  -
mvitv2_small           34_537_744    4_181_926_080  4x128x128   176      -  -
mvitv2_small_16x4      34_537_744   64_223_815_872  16x224x224    -   81.1  Apache-2.0, BSD-3-Clause
  mvit-small-p244_16x4x1_kinetics400-rgb_20221021-9ebaaeed.pth
  mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb_20230201-23284ff3.pth
  MViTv2_S_16x4_k400_f302660347.pyth
  mvit_v2_s-ae3be167.pth
videoswin_tiny         28_158_070    5_565_170_688  4x160x160   162      -  -
videoswin_tiny_32x2    28_158_070   87_764_152_320  32x224x224    -   78.9  Apache-2.0, BSD-3-Clause
  swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb_20220930-241016b2.pth
  swin3d_t-7615ae03.pth
timesformer_base       86_007_952   23_196_923_904  4x128x128   196      -  -
timesformer_base_8x32  86_112_400  179_562_805_248  8x224x224     -  76.95  Apache-2.0
  timesformer_jointST_8xb8-8x32x1-15e_kinetics400-rgb_20220815-8022d1c0.pth
timesformer_divst     121_566_352  195_830_280_192  8x224x224     -  77.69  Apache-2.0
  timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb_20220815-a4d0d01f.pth
"""


@dataclass(frozen=True)
class Published:
    """Figures of others, and what was measured of the public code.

    Attributes:
      parameters: number of parameters with 400 classes.
      multiply_adds: of convolutions and matrix products, for one clip of `clip`; one multiply-add
        counts as one.
      clip: (frames, height, width) that this and the paper's speed are of.
      paper_cpu_ms: the paper's milliseconds a clip on a CPU (Table 7); None if it is not there.
      top1: Kinetics accuracy that is published with the first of `weights`, in percent.
      licence: of `weights`.
      weights: public weight files that this network reads.
    """

    parameters: int
    multiply_adds: int
    clip: tuple[int, int, int]
    paper_cpu_ms: int | None
    top1: float | None
    licence: str
    weights: tuple[str, ...]


def _read(table: str) -> dict[str, Published]:
    """The rows of a table by name; files follow their row."""
    found: dict[str, Published] = {}
    for block in re.split(r"\n(?=\w)", table.strip()):
        row, *files = block.splitlines()
        name, parameters, multiply_adds, clip, *rest = row.split(maxsplit=6)
        paper_cpu_ms, top1, licence = ("" if word == "-" else word for word in rest)
        t, h, w = map(int, clip.split("x"))
        found[name] = Published(
            parameters=int(parameters),
            multiply_adds=int(multiply_adds),
            clip=(t, h, w),
            paper_cpu_ms=int(paper_cpu_ms) if paper_cpu_ms else None,
            top1=float(top1) if top1 else None,
            licence=licence,
            weights=tuple(file.strip() for file in files),
        )
    return found


PUBLISHED = _read(_TABLE)
"""By name in the register."""
