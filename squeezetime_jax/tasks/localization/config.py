"""An experiment of temporal localisation: every field, with its default.

The paper says of its THUMOS14 experiment little more than the windows and the head's origin (AFSD
without boundary refinement). What it leaves open is a field here whose default is our reading;
docs/localization.md lists them.
"""

import dataclasses
from typing import Literal

from squeezetime_jax.errors import check_fields
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.localization.untrimmed import Untrimmed
from squeezetime_jax.training.plan import Run
from squeezetime_jax.training.recipe import Recipe

TASK = "localization"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """What the network sees of a video at once.

    Attributes:
      num_frames: frames of a window, at the sampled rate of 10 a second.
      clip_stride: frames from one of its clips to the next.
      padding: frames added in front and behind, so that `num_frames / clip_stride` clips fit.
      padding_mode: what is added: the first and last frame again ("edge") or mid-grey ("zero").
      stored_side: side that frames are resized to, whatever their shape.
      crop_side: side of the square that the network sees of them.
      normalization: "symmetric" (-1 to 1) or "imagenet" (mean and deviation, as in recognition).
      short_padding: what a window longer than its video is filled with: "reference" (black in
        training, mid-grey in tests) or "grey" in both.

    Raises:
      ValueError: a field is out of range, or the clips do not fit.
    """

    num_frames: int = 256
    clip_stride: int = 8
    padding: tuple[int, int] = (4, 4)
    padding_mode: Literal["edge", "zero"] = "edge"
    stored_side: int = 112
    crop_side: int = 96
    normalization: Literal["symmetric", "imagenet"] = "symmetric"
    short_padding: Literal["reference", "grey"] = "reference"

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", tuple(self.padding))
        check_fields(
            self,
            ("num_frames", self.num_frames >= 16, "at least 16"),
            ("clip_stride", self.num_frames % self.clip_stride == 0, "a divisor of num_frames"),
            ("padding", min(self.padding) >= 0, "two numbers from 0"),
            ("padding_mode", self.padding_mode in ("edge", "zero"), "'edge' or 'zero'"),
            ("stored_side", self.stored_side >= self.crop_side, "at least crop_side"),
            ("crop_side", self.crop_side >= 32, "at least 32"),
            ("normalization", self.normalization in ("symmetric", "imagenet"), "a known one"),
            ("short_padding", self.short_padding in ("reference", "grey"), "a known one"),
            section="window",
        )

    @property
    def num_clips(self) -> int:
        """Clips of a window: the length of its temporal feature."""
        return self.num_frames // self.clip_stride

    def check_clips(self, clip_len: int) -> None:
        """Refuse clips of a length that do not fill the padded window to its end.

        Raises:
          ValueError: naming the padding that would do.
        """
        wanted = (self.num_clips - 1) * self.clip_stride + clip_len - self.num_frames
        if sum(self.padding) != wanted:
            raise ValueError(
                f"window.padding is {self.padding}, wanted {wanted} frames in all, for"
                f" {self.num_clips} clips of {clip_len} frames at stride {self.clip_stride}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """What finds segments in a window's feature.

    Attributes:
      channels: of the pyramid and the towers; a multiple of 32.
      features: the backbone's stages that are used: "layer4", or "layer3+layer4", whose sum is the
        first level.
      collapse: how a feature map becomes a vector: "conv", one weight per place, or "mean".
      num_levels: levels of the pyramid, each half as long as the one before.
      doubled: whether a level of twice the length, the first one upsampled, comes before them.
      quality: whether an output rates each segment's overlap and scales its score.
    """

    channels: int = 512
    features: Literal["layer4", "layer3+layer4"] = "layer4"
    collapse: Literal["conv", "mean"] = "conv"
    num_levels: int = 6
    doubled: bool = False
    quality: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("channels", self.channels >= 32 and self.channels % 32 == 0, "a multiple of 32"),
            ("features", self.features in ("layer4", "layer3+layer4"), "a known one"),
            ("collapse", self.collapse in ("conv", "mean"), "'conv' or 'mean'"),
            ("num_levels", self.num_levels >= 1, "at least 1"),
            section="head",
        )

    def level_lengths(self, num_clips: int) -> tuple[int, ...]:
        """Cells of each level of the pyramid over a feature of that length.

        Raises:
          ValueError: a level would not be half of the one before.
        """
        lengths = [num_clips >> level for level in range(self.num_levels)]
        if num_clips % (1 << (self.num_levels - 1)):
            raise ValueError(
                f"head.num_levels is {self.num_levels}, but {num_clips} clips cannot be halved"
                f" {self.num_levels - 1} times"
            )
        return ((2 * num_clips,) if self.doubled else ()) + tuple(lengths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where videos and annotations are, and how training windows are cut.

    Attributes:
      annotations: folder with THUMOS14's files, or the word "untrimmed".
      videos: folder of the videos, `<name>.mp4` or another suffix.
      arrays: folder of the videos as sampled and resized, `<name>.npy`; what training needs and
        lacks is made there from `videos`. Empty: `arrays` in the run's directory.
      untrimmed: the embedded data set, made on first use where `annotations` is "untrimmed".
      stride: frames from one training window of a video to the next.
      time_base: what segments are taken from: "frames" (the tables' native frames) or "seconds".
      flip: probability of a mirrored training window.
      random_crop: whether training crops are drawn; else they are central.
      max_instances: most instances of a window.
      workers: processes that decode; 0: one per core.
    """

    annotations: str = "thumos14/annotations"
    videos: str = "thumos14/videos"
    arrays: str = ""
    untrimmed: Untrimmed = dataclasses.field(default_factory=Untrimmed)
    stride: int = 30
    time_base: Literal["frames", "seconds"] = "frames"
    flip: float = 0.5
    random_crop: bool = True
    max_instances: int = 32
    workers: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("stride", self.stride >= 1, "at least 1"),
            ("time_base", self.time_base in ("frames", "seconds"), "'frames' or 'seconds'"),
            ("flip", 0 <= self.flip <= 1, "in [0, 1]"),
            ("max_instances", self.max_instances >= 1, "at least 1"),
            ("workers", self.workers >= 0, "at least 0"),
            section="data",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """What is minimised.

    Attributes:
      location: weight of one minus the overlap, over positives.
      classification: weight of the focal loss, over all priors.
      quality: weight of the quality output's cross-entropy, where there is one.
    """

    location: float = 10.0
    classification: float = 1.0
    quality: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freeze:
    """What of the network does not move.

    Attributes:
      norm: of batch norm: "all", "statistics" (scale and bias are trained) or "nothing".
      backbone: whether the whole backbone stays as it is.
    """

    norm: Literal["all", "statistics", "nothing"] = "all"
    backbone: bool = False

    def __post_init__(self) -> None:
        is_known = self.norm in ("all", "statistics", "nothing")
        check_fields(self, ("norm", is_known, "'all', 'statistics' or 'nothing'"), section="freeze")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inference:
    """From outputs to detections.

    Attributes:
      stride: frames from one window of a video to the next.
      min_score: a segment's class score must be above it.
      sigma: of the Gaussian soft-NMS.
      top_k: most segments of a class that it goes through, in a video.
      drop_below: score below which soft-NMS drops a segment.
      drops_last: whether soft-NMS leaves out the last segment that remains, as the reference does.
    """

    stride: int = 128
    min_score: float = 0.01
    sigma: float = 0.5
    top_k: int = 5000
    drop_below: float = 0.001
    drops_last: bool = True

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("stride", self.stride >= 1, "at least 1"),
            ("sigma", self.sigma > 0, "above 0"),
            ("top_k", self.top_k >= 1, "at least 1"),
            section="inference",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the test videos are scored.

    Attributes:
      every_epochs: epochs from one evaluation to the next while training; 0: never.
      thresholds: overlaps that the mean average precision is averaged over.
      shuffled: whether the frames of each clip are put into a random order: a control that shows
        what the order is worth.
    """

    every_epochs: float = 0.0
    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)
    shuffled: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        in_range = all(0 < t <= 1 for t in self.thresholds) and len(self.thresholds) > 0
        check_fields(self, ("thresholds", in_range, "numbers in (0, 1]"), section="evaluation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """What others report for the experiment.

    Attributes:
      average: mean average precision over the thresholds, in [0, 1]; 0: nothing is reported.
      source: where.
    """

    average: float = 0.0
    source: str = ""


def _adam() -> Recipe:
    """The reference's optimiser: a constant rate, no warm-up, no clipping."""
    return Recipe(
        method="adam", learning_rate=1e-5, base_batch_size=0, schedule="steps",
        weight_decay=1e-3, clip_norm=0.0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole training run.

    Attributes:
      task: "localization".
      seed: of everything drawn.
      epochs: passes over the training windows.
      batch_size: windows in a step, on all devices together.
      init: the backbone's weights, anything `squeezetime_jax.load` takes; empty: drawn anew.
      model: the backbone; `num_classes` without the background.
      window: what is seen of a video at once.
      head: what finds segments.
      data: videos and annotations.
      loss: what is minimised.
      freeze: what does not move.
      optimizer: how the rest moves.
      inference: from outputs to detections.
      evaluation: how test videos are scored.
      published: figures to compare with.
      run: what does not touch the result.
    """

    task: str = TASK
    seed: int = 0
    epochs: int = 16
    batch_size: int = 1
    init: str = ""
    model: SqueezeTimeConfig = dataclasses.field(
        default_factory=lambda: SqueezeTimeConfig(num_classes=20)
    )
    window: Window = dataclasses.field(default_factory=Window)
    head: Head = dataclasses.field(default_factory=Head)
    data: Data = dataclasses.field(default_factory=Data)
    loss: Loss = dataclasses.field(default_factory=Loss)
    freeze: Freeze = dataclasses.field(default_factory=Freeze)
    optimizer: Recipe = dataclasses.field(default_factory=_adam)
    inference: Inference = dataclasses.field(default_factory=Inference)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    published: Published = dataclasses.field(default_factory=Published)
    run: Run = dataclasses.field(default_factory=Run)

    def __post_init__(self) -> None:
        self.window.check_clips(self.model.num_frames)
        self.head.level_lengths(self.window.num_clips)
