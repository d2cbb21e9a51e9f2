"""The sections of a detection experiment; the defaults are the released configuration."""

import dataclasses
from typing import Literal

from squeezetime_jax.data.augment import Augmentation
from squeezetime_jax.data.embedded.people import People
from squeezetime_jax.errors import UserError, check_fields
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig
from squeezetime_jax.tasks.detection.frames import Sampling
from squeezetime_jax.tasks.detection.metric import PROTOCOLS
from squeezetime_jax.training import experiment
from squeezetime_jax.training.experiment import may_change, may_move

NAME = "detection"
"""Of the task, in configs and checkpoints."""

PEOPLE = "people"
"""The value of `data.train` that stands for the embedded data set."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data(experiment.Data):
    """Where boxes and frames are, and how clips are made of them.

    Attributes:
      train: csv file of annotated boxes to train on, or the word "people": the embedded data set.
      test: the same to evaluate on; empty: no evaluation (with "people", its own test part).
      train_proposals: boxes that a person detector found, for training; empty: none.
      test_proposals: the boxes that are scored in an evaluation; empty: whole frames.
      train_excluded: csv file of frames to leave out; empty: none.
      test_excluded: likewise.
      labels: list of the actions that are evaluated.
      frames: folder of folders of JPEG, of videos, or of prepared shards.
      begins_at: the second that the first frame of a video file shows.
      people: the embedded data set.
      frame_interval: distance between neighbouring frames of a clip.
      fps: numbered frames per second.
      start: the second that frame 1 shows.
      end: the second after the last frame.
      frame_offset: 1: frame numbers as in mmaction2 from 1.1 on; 0: one less, as in 1.0.
      person_score: least score of a proposal; where none reaches it, the highest is used.
      most_proposals: largest number of proposals of a frame.
      max_boxes: largest number of boxes of a training clip, annotated ones and proposals.
      match_iou: least overlap of a proposal with its annotated box.
      short_side: of training frames before the crop.
      crop_size: side of the clips.
      crop: "multi_scale" (released code), or "none": resized to a square, as in tests.
    """

    train: str = may_move()
    test: str = may_move()
    train_proposals: str = may_move()
    test_proposals: str = may_move()
    train_excluded: str = may_move()
    test_excluded: str = may_move()
    labels: str = may_move()
    frames: str = may_move()
    begins_at: float = 0.0
    people: People = dataclasses.field(default_factory=People)
    frame_interval: int = 4
    fps: int = 30
    start: int = 900
    end: int = 1800
    frame_offset: int = 1
    person_score: float = 0.9
    most_proposals: int = 1000
    max_boxes: int = 32
    match_iou: float = 0.9
    short_side: int = 288
    crop_size: int = 256
    crop: Literal["multi_scale", "none"] = "multi_scale"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            ("person_score", 0 <= self.person_score <= 1, "in [0, 1]"),
            ("most_proposals", self.most_proposals >= 1, "at least 1"),
            ("max_boxes", self.max_boxes >= 1, "at least 1"),
            ("match_iou", 0 < self.match_iou <= 1, "in (0, 1]"),
            ("crop_size", self.crop_size >= 32, "at least 32"),
            ("short_side", self.short_side >= 32, "at least 32"),
            ("crop", self.crop in ("multi_scale", "none"), "'multi_scale' or 'none'"),
            section="data",
        )
        self.sampling(16)

    def sampling(self, num_frames: int) -> Sampling:
        """Which frames make a clip."""
        names = ("frame_interval", "fps", "start", "end", "frame_offset")
        return Sampling(num_frames=num_frames, **{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(experiment.Evaluation):
    """How the test frames are scored.

    Attributes:
      batch_size: clips scored at once, on all devices together.
      action_score: an action counts where its score exceeds this.
      protocol: arithmetic of the frame mAP, "mmaction2" or "official" (ActivityNet's).
    """

    every_epochs: float = may_change(3.0)
    batch_size: int = may_change(16)
    action_score: float = may_change(0.002)
    protocol: Literal["mmaction2", "official"] = may_change("mmaction2")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("protocol", self.protocol in PROTOCOLS, f"one of {', '.join(PROTOCOLS)}"),
            section="evaluation",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(experiment.Experiment):
    """A training run of detection.

    Attributes:
      model: the backbone, a SqueezeTime; `num_classes` counts action ids from 0, where 0 is no
        action, and `bn_group_size` is also the number of clips whose boxes the loss averages over
        at once.
      augmentation: of training clips.
    """

    task: str = NAME
    epochs: int = 50
    batch_size: int = 128
    model: NetworkConfig = dataclasses.field(
        default_factory=lambda: SqueezeTimeConfig.ava21(bn_group_size=16)
    )
    data: Data = dataclasses.field(default_factory=Data)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, SqueezeTimeConfig):
            raise UserError(
                f"config: model.name is {self.model.name}, but detection supports only networks"
                " whose last feature map has no time axis: squeezetime"
            )
        for name in ("label_smoothing", "mixup", "cutmix"):
            if value := getattr(self.optimizer, name):
                raise UserError(
                    f"config: optimizer.{name} is {value}, but detection does not support it; set"
                    " it to 0"
                )
        if self.augmentation.flip_labels is not None:
            raise UserError(
                "config: augmentation.flip_labels is for recognition; detection needs it empty"
            )
