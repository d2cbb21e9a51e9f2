"""The paper's tables and Figure 1 as data: their rows, the published figures, how a row is trained.

At scale "paper" a row is trained on the paper's data; at scale "demo" the same change is made to a
small network, on embedded videos.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

SCALES = ("demo", "paper")
SEEDS = {"demo": 3, "paper": 1}  # runs of each row, unless the command line says otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the network of a row is trained and evaluated at one scale.

    Attributes:
      config: as `--config` takes it.
      start: the training whose weights it starts from; None: as the config says.
      clips: in one pass over the training data; 0: as many as the config's embedded videos.
      fields: of the config, changed for every row.
      views: "CLIPSxCROPS" of the evaluation; empty: the config's.
      evaluated: False for a training that others start from and no table shows.
      shares_videos: True if all its runs use the motion videos of one folder.
    """

    config: str
    start: "Training | None" = None
    clips: int = 0
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    views: str = ""
    evaluated: bool = True
    shares_videos: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      name: as the table shows it.
      paper: the paper's figures by column, in percent; "parameters" in millions, "multiply-adds"
        in thousands of millions.
      fields: of the config that differ from the table's network.
      demo: the same at scale "demo", where they differ from `fields`.
    """

    name: str
    paper: Mapping[str, float]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    demo: Mapping[str, Any] | None = None

    def at(self, scale: str) -> Mapping[str, Any]:
        """The fields at a scale."""
        return self.demo if scale == "demo" and self.demo is not None else self.fields


IMAGENET = Training(config="imagenet1k", clips=1_281_167, evaluated=False)
KINETICS400 = Training(config="k400:paper", start=IMAGENET, clips=240_000, views="10x3")
KINETICS600 = Training(config="k600:paper", start=IMAGENET, clips=390_000, views="10x3")
HMDB51 = Training(config="hmdb51:paper", start=KINETICS400, clips=3_570, views="2x3")
AVA = Training(config="ava21:paper", start=KINETICS400, clips=184_000)
THUMOS14 = Training(config="thumos14", start=KINETICS400, clips=7_842 * 32)

MOTION = Training(config="ablation", shares_videos=True)
# Few videos of other scenes: what HMDB51 is to Kinetics-400.
FEW_VIDEOS = {"data.motion.seed": 1, "data.motion.num_train": 320, "data.motion.num_test": 400}
MOTION_FINE_TUNED = Training(config="ablation", start=MOTION, fields=FEW_VIDEOS)
PEOPLE = Training(config="ava_demo")
UNTRIMMED = Training(config="thumos14:demo", start=Training(config="demo", evaluated=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table or figure of the paper.

    Attributes:
      name: of its files.
      title: what it compares.
      rows: in the paper's order.
      paper: how its rows are trained at scale "paper".
      demo: how its rows are trained at scale "demo".
      rising: names of the rows from worst to best in the paper; empty: the paper claims no order.
      metrics: column -> its name in the evaluation; the first column is the one compared.
      runtimes: "runtime dtype", as `squeezetime bench` names them, in which each row's network is
        timed on this machine.
      paper_network: True to time the network of scale "paper" at either scale.
      networks: True if the paper's other networks are timed too, and stand below the table.
      demo_note: what scale "demo" does differently from the paper.
      note: what is printed below it at either scale.
    """

    name: str
    title: str
    rows: Sequence[Row]
    paper: Training = KINETICS400
    demo: Training = MOTION
    rising: Sequence[str] = ()
    metrics: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"top-1": "top1", "top-5": "top5"}
    )
    runtimes: Sequence[str] = ()
    paper_network: bool = False
    networks: bool = False
    demo_note: str = ""
    note: str = ""

    @property
    def numbers(self) -> list[str]:
        """What the command line calls it: "1", or "6" and "7", or "figure1"."""
        kind, *rest = self.name.split("_")
        number = kind.removeprefix("table")
        return [number, *(part for part in rest if part.isdecimal())]

    def training(self, scale: str) -> Training:
        """How its rows are trained at a scale."""
        return self.demo if scale == "demo" else self.paper


def _row(
    name: str,
    costs: tuple[float | None, float | None],
    accuracy: tuple[float, float | None],
    fields: Mapping[str, Any] = MappingProxyType({}),
    demo: Mapping[str, Any] | None = None,
) -> Row:
    """A row by its parameters and multiply-adds, and its top-1 and top-5; None: not published."""
    columns = ("parameters", "multiply-adds", "top-1", "top-5")
    figures = zip(columns, (*costs, *accuracy), strict=True)
    paper = {column: value for column, value in figures if value is not None}
    return Row(name, paper, fields, demo)


def _clip(frames: int, interval: int) -> dict[str, int]:
    return {"model.num_frames": frames, "data.frame_interval": interval}


def _width(factor: float) -> dict[str, float]:
    return {"model.width": factor}


_TFC, _IOI = {"model.branches": "tfc"}, {"model.branches": "ioi"}
_NO_FOCUS, _NO_POSITION = {"model.temporal_focus": False}, {"model.position_encoding": False}
WHOLE = ((28.7, 5.5), (71.6, 89.3))
# The small network of the ablations is half as wide as the paper's.
WIDTHS = (
    _row("width 0.5", (None, 1.9), (67.8, None), _width(0.5), _width(0.25)),
    _row("width 0.75", (None, 3.4), (69.8, None), _width(0.75), _width(0.375)),
    _row("width 1", *WHOLE),
    _row("width 1.25", (None, 8.1), (71.9, None), _width(1.25), _width(0.625)),
)
_WIDTHS_NOTE = "Here each network is half as wide: 0.25, 0.375, 0.5, 0.625."
_OVERLAPS = {"0.3": 48.3, "0.4": 43.0, "0.5": 34.8, "0.6": 24.7, "0.7": 13.8}
_ONE = "SqueezeTime"  # the row of a table of one network

TABLES = (
    Table(
        name="table1_branches",
        title="Table 1: the middle of a block",
        rows=(
            _row(
                *("base, a 3x3 convolution", (23.6, 4.7), (67.2, 87.1)),
                {"model.branches": "conv3x3"},
            ),
            _row("TFC branch", (16.1, 3.1), (62.8, 83.5), _TFC),
            _row("IOI branch", (27.5, 5.3), (69.6, 88.3), _IOI),
            _row("both (SqueezeTime)", *WHOLE),
        ),
        rising=("TFC branch", "base, a 3x3 convolution", "IOI branch", "both (SqueezeTime)"),
    ),
    Table(
        name="table2_ioi",
        title="Table 2: the parts of the IOI branch, without the TFC branch",
        rows=(
            _row("IOI alone", (24.9, 5.3), (68.1, 87.4), _IOI | _NO_FOCUS | _NO_POSITION),
            _row("with temporal focus", (27.4, 5.3), (69.2, 88.4), _IOI | _NO_POSITION),
            _row("with focus and position encoding", (27.5, 5.3), (69.6, 88.3), _IOI),
        ),
        rising=("IOI alone", "with temporal focus", "with focus and position encoding"),
    ),
    Table(
        name="table3_tfc",
        title="Table 3: temporal focus against a plain 1x1 convolution, without the IOI branch",
        rows=(
            _row("plain 1x1 convolution", (13.5, 3.1), (49.9, 73.3), _TFC | _NO_FOCUS),
            _row("temporal focus convolution (TFC)", (16.1, 3.1), (62.8, 83.5), _TFC),
        ),
        rising=("plain 1x1 convolution", "temporal focus convolution (TFC)"),
    ),
    # The interval shrinks as the frames grow, so that a clip always spans as much of the video; the
    # embedded videos have half as many frames as the paper's clips span.
    Table(
        name="table4_frames",
        title="Table 4: frames of a clip (interval 12, 8, 4, 2)",
        rows=(
            _row("4 frames", (None, 4.8), (70.7, 89.1), _clip(4, 12), _clip(4, 6)),
            _row("8 frames", (None, 5.0), (70.9, 88.9), _clip(8, 8), _clip(8, 4)),
            _row("16 frames", (None, 5.5), (71.6, 89.3)),
            _row("32 frames", (None, None), (71.7, None), _clip(32, 2), _clip(32, 1)),
        ),
        rising=("4 frames", "8 frames", "16 frames", "32 frames"),
        demo_note="Here the frames lie half as far apart as in the paper: 6, 4, 2, 1.",
    ),
    Table(
        name="table5_width",
        title="Table 5: width, as a factor on every stage's channels",
        rows=WIDTHS,
        rising=("width 0.5", "width 0.75", "width 1", "width 1.25"),
        demo_note=_WIDTHS_NOTE,
    ),
    Table(
        name="table6_7_speed",
        title="Tables 6 and 7: SqueezeTime on Kinetics-400, and its speed",
        rows=(_row(_ONE, *WHOLE),),
        runtimes=("fused float32", "openvino float32", "openvino int8", "litert int8"),
        paper_network=True,
        networks=True,
        note="The paper's speed, on other machines: 123 ms a clip on a Xeon Gold 6278C, 139 ms on"
        " a phone's processor, 903 clips/s on a V100.",
    ),
    Table(
        name="table8_kinetics600",
        title="Table 8: SqueezeTime on Kinetics-600",
        rows=(_row(_ONE, (None, None), (76.0, 92.5)),),
        paper=KINETICS600,
        demo_note="Here: the small network on the motion videos, as in Table 1; with eight classes,"
        " chance is 12.5 %.",
    ),
    Table(
        name="table9_hmdb51",
        title="Table 9: SqueezeTime on HMDB51, fine-tuned from Kinetics-400",
        rows=(_row(_ONE, (None, None), (65.6, 90.3)),),
        paper=HMDB51,
        demo=MOTION_FINE_TUNED,
        demo_note="Here: the small network of Table 1 (seed 0), fine-tuned on 320 motion videos of"
        " other scenes by the same recipe.",
    ),
    Table(
        name="table10_ava",
        title="Table 10: detection on AVA 2.1",
        rows=(Row(_ONE, {"frame mAP": 15.1}),),
        paper=AVA,
        demo=PEOPLE,
        metrics={"frame mAP": "overall"},
        demo_note="Here: the embedded people of configs/ava_demo.py.",
    ),
    Table(
        name="table11_thumos14",
        title="Table 11: localisation on THUMOS14, mean average precision by overlap",
        rows=(Row(_ONE, {"average": 32.7, **_OVERLAPS}),),
        paper=THUMOS14,
        demo=UNTRIMMED,
        metrics={"average": "average", **{t: f"per_threshold.{t}" for t in _OVERLAPS}},
        demo_note="Here: the untrimmed motion videos of configs/thumos14.py:demo, from the weights"
        " of configs/demo.py.",
    ),
    Table(
        name="figure1_speed",
        title="Figure 1: accuracy against speed",
        rows=WIDTHS,
        runtimes=("fused float32",),
        demo_note=_WIDTHS_NOTE,
        note="The paper's figure has SqueezeTime at 71.6 % and 123 ms a clip, on another machine.",
    ),
)
