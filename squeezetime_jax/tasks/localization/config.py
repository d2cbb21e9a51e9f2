"""The sections of a localisation experiment.

The paper says of its THUMOS14 experiment little more than the windows and the head's origin (AFSD
without boundary refinement). What it leaves open is a field here whose default is our reading;
docs/localization.md lists them.
"""

import dataclasses
from typing import Literal

from squeezetime_jax.data.embedded.untrimmed import Untrimmed
from squeezetime_jax.errors import UserError, check_fields
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig
from squeezetime_jax.training import experiment
from squeezetime_jax.training.experiment import may_change, may_move
from squeezetime_jax.training.recipe import Recipe

NAME = "localization"
"""Of the task, in configs and checkpoints."""

UNTRIMMED = "untrimmed"
"""The value of `data.annotations` that stands for the embedded data set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a video that the network sees at once.

    Attributes:
      num_frames: frames of a window, at the sampled rate of 10 a second.
      clip_stride: frames from one of its clips to the next.
      padding: frames added in front and behind, so that `num_frames / clip_stride` clips fit.
      padding_mode: the added frames: copies of the first and last frame ("edge") or mid-grey
        ("zero").
      stored_side: side that frames are resized to, whatever their shape.
      crop_side: side of the square crop that the network sees.
      normalization: "symmetric" (-1 to 1) or "imagenet" (mean and deviation, as in recognition).
      short_padding: how a window longer than its video is filled: "reference" (black in training,
        mid-grey in tests) or "grey" in both.

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
            (
                "normalization",
                self.normalization in ("symmetric", "imagenet"),
                "'symmetric' or 'imagenet'",
            ),
            (
                "short_padding",
                self.short_padding in ("reference", "grey"),
                "'reference' or 'grey'",
            ),
            section="window",
        )

    @property
    def num_clips(self) -> int:
        """Clips of a window: the length of its temporal feature."""
        return self.num_frames // self.clip_stride

    def check_clips(self, clip_len: int) -> None:
        """Check that clips of this length fill the padded window to its end.

        Raises:
          ValueError: they do not; names the padding that fits.
        """
        padding = (self.num_clips - 1) * self.clip_stride + clip_len - self.num_frames
        if sum(self.padding) != padding:
            raise ValueError(
                f"window.padding is {self.padding}, but {self.num_clips} clips of {clip_len} frames"
                f" at stride {self.clip_stride} need {padding} frames in total"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The part of the network that finds segments in the feature of a window.

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
        features = ("layer4", "layer3+layer4")
        check_fields(
            self,
            ("channels", self.channels >= 32 and self.channels % 32 == 0, "a multiple of 32"),
            ("features", self.features in features, "'layer4' or 'layer3+layer4'"),
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
class Data(experiment.Data):
    """Where videos and annotations are, and how training windows are cut.

    Attributes:
      annotations: folder with THUMOS14's files, or the word "untrimmed": the embedded data set.
      videos: folder of the videos, `<name>.mp4` or another suffix.
      arrays: folder of the videos as sampled and resized, `<name>.npy`; those that training needs
        are made there from `videos`. Empty: `arrays` in the run's directory.
      untrimmed: the embedded data set.
      stride: frames from one training window of a video to the next.
      time_base: source of the segments: "frames" (the tables' native frames) or "seconds".
      flip: probability that a training window is mirrored.
      random_crop: whether training crops are random; else they are central.
      max_instances: largest number of instances of a window.
    """

    annotations: str = may_move("thumos14/annotations")
    videos: str = may_move("thumos14/videos")
    arrays: str = may_change("")
    untrimmed: Untrimmed = dataclasses.field(default_factory=Untrimmed)
    stride: int = 30
    time_base: Literal["frames", "seconds"] = "frames"
    flip: float = 0.5
    random_crop: bool = True
    max_instances: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            ("stride", self.stride >= 1, "at least 1"),
            ("time_base", self.time_base in ("frames", "seconds"), "'frames' or 'seconds'"),
            ("flip", 0 <= self.flip <= 1, "in [0, 1]"),
            ("max_instances", self.max_instances >= 1, "at least 1"),
            section="data",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Weights of the parts of the loss.

    Attributes:
      location: of one minus the overlap, over positive priors.
      classification: of the focal loss, over all priors.
      quality: of the cross-entropy of the quality output, where there is one.
    """

    location: float = 10.0
    classification: float = 1.0
    quality: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freeze:
    """The parts of the network that are not trained.

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
    """How outputs become detections.

    Attributes:
      stride: frames from one window of a video to the next.
      min_score: a segment counts where its class score exceeds this.
      sigma: of the Gaussian soft-NMS.
      top_k: largest number of segments of a class in a video that soft-NMS keeps.
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
class Evaluation(experiment.Evaluation):
    """How the test videos are scored.

    Attributes:
      thresholds: overlaps that the mean average precision is averaged over.
      shuffled: whether the frames of each clip are put into a random order: a control experiment.
    """

    every_epochs: float = may_change(0.0)
    thresholds: tuple[float, ...] = may_change((0.3, 0.4, 0.5, 0.6, 0.7))
    shuffled: bool = may_change(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        in_range = all(0 < t <= 1 for t in self.thresholds) and len(self.thresholds) > 0
        check_fields(self, ("thresholds", in_range, "numbers in (0, 1]"), section="evaluation")


def _adam() -> Recipe:
    """The reference's optimiser: a constant rate, no warm-up, no clipping."""
    return Recipe(
        method="adam", learning_rate=1e-5, base_batch_size=0, schedule="steps",
        weight_decay=1e-3, clip_norm=0.0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(experiment.Experiment):
    """A training run of localisation.

    Attributes:
      batch_size: windows in a step, on all devices together.
      init: weights of the backbone: of a recogniser; empty: drawn from `seed`.
      model: the backbone, any network; `num_classes` without the background.
      window: the part of a video that the network sees at once.
      head: what finds segments in it.
      loss: weights of the parts of the loss.
      freeze: the parts that are not trained.
      inference: how outputs become detections.
    """

    task: str = NAME
    epochs: int = 16
    batch_size: int = 1
    model: NetworkConfig = dataclasses.field(
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.window.check_clips(self.model.num_frames)
        self.head.level_lengths(self.window.num_clips)
        if self.optimizer.accumulation != 1:
            raise UserError(
                "config: optimizer.accumulation must be 1: the loss is divided by the positive"
                " priors of the whole batch, which a part of it does not know"
            )
