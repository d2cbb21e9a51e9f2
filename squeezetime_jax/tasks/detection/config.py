"""An experiment of action detection: every field, with its default (the released configuration)."""

import dataclasses
from typing import Literal

from squeezetime_jax.data.augment import Augmentation
from squeezetime_jax.data.embedded.people import People
from squeezetime_jax.errors import UserError, check_fields
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.detection.metric import Protocol
from squeezetime_jax.tasks.detection.moments import Sampling
from squeezetime_jax.training.plan import Run
from squeezetime_jax.training.recipe import Recipe

TASK = "detection"
PEOPLE = "people"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where boxes and frames are, and how clips are made of them.

    Attributes:
      train: csv file of annotated boxes to train on, or the word "people": the embedded data set.
      test: the same to evaluate on; empty: nothing (with "people", its own test part).
      train_proposals: boxes a person detector found, for training; empty: none.
      test_proposals: for evaluation, where they are the boxes to be scored; empty: whole frames.
      train_excluded: csv file of frames to leave out; empty: none.
      test_excluded: likewise.
      labels: list of the actions that are evaluated.
      frames: folder of folders of JPEG, or of videos.
      begins_at: the second that a video file's first frame shows.
      people: the embedded data set.
      frame_interval: from one frame of a clip to the next.
      fps: numbered frames in a second.
      start: the second that frame 1 shows.
      end: the second after the last frame.
      frame_offset: 1: frame numbers as mmaction2 has them from 1.1 on; 0: one less, as 1.0.
      person_score: a proposal's least score; where none reaches it, the highest counts.
      most_proposals: of a frame.
      max_boxes: of a training clip, annotated ones and proposals.
      match_iou: least overlap of a proposal with its annotated box.
      short_side: of training frames before the crop.
      crop_size: side of the clips.
      crop: "multi_scale" (released code), or "none": squashed to a square, as in tests.
      workers: decoding processes; 0: threads of the training process.
    """

    train: str = ""
    test: str = ""
    train_proposals: str = ""
    test_proposals: str = ""
    train_excluded: str = ""
    test_excluded: str = ""
    labels: str = ""
    frames: str = ""
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
    workers: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("person_score", 0 <= self.person_score <= 1, "in [0, 1]"),
            ("most_proposals", self.most_proposals >= 1, "at least 1"),
            ("max_boxes", self.max_boxes >= 1, "at least 1"),
            ("match_iou", 0 < self.match_iou <= 1, "in (0, 1]"),
            ("crop_size", self.crop_size >= 32, "at least 32"),
            ("short_side", self.short_side >= 32, "at least 32"),
            ("crop", self.crop in ("multi_scale", "none"), "'multi_scale' or 'none'"),
        )
        self.sampling(16)

    def sampling(self, num_frames: int) -> Sampling:
        """Which frames make a clip."""
        return Sampling(
            num_frames=num_frames,
            frame_interval=self.frame_interval,
            fps=self.fps,
            start=self.start,
            end=self.end,
            frame_offset=self.frame_offset,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the test frames are scored.

    Attributes:
      every_epochs: epochs from one evaluation to the next; 0: never.
      batch_size: clips scored at once, on all devices together.
      action_score: what an action's score has to exceed to count.
      protocol: whose frame mAP, "mmaction2" or "official" (ActivityNet's).
    """

    every_epochs: float = 3.0
    batch_size: int = 16
    action_score: float = 0.002
    protocol: Protocol = "mmaction2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """What others report, for an evaluation to be compared with.

    Attributes:
      frame_map: frame mAP at IoU 0.5, a share in [0, 1]; 0: nothing is reported.
      source: where.
    """

    frame_map: float = 0.0
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole training run.

    Attributes:
      task: "detection".
      seed: of everything drawn.
      epochs: passes over the annotated frames.
      batch_size: clips in a step, on all devices together.
      init: weights to start from: a detector's, or a recogniser's, which are adapted; empty: drawn.
      model: the backbone; `num_classes` counts action ids from 0, where 0 is no action, and
        `bn_group_size` is also how many clips' boxes the loss is averaged over at once.
      data: the boxes and frames.
      augmentation: what happens to training clips.
      optimizer: how the weights move.
      evaluation: how test frames are scored on the way.
      published: figures to compare with.
      run: what does not touch the result.
    """

    task: str = TASK
    seed: int = 0
    epochs: int = 50
    batch_size: int = 128
    init: str = ""
    model: SqueezeTimeConfig = dataclasses.field(
        default_factory=lambda: SqueezeTimeConfig.ava21(bn_group_size=16)
    )
    data: Data = dataclasses.field(default_factory=Data)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    optimizer: Recipe = dataclasses.field(default_factory=Recipe)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    published: Published = dataclasses.field(default_factory=Published)
    run: Run = dataclasses.field(default_factory=Run)


def check(experiment: Experiment) -> None:
    """Refuse fields that do not go together.

    Raises:
      UserError: naming the field.
    """
    recipe = experiment.optimizer
    for name in ("label_smoothing", "mixup", "cutmix"):
        if getattr(recipe, name):
            raise UserError(
                f"config: optimizer.{name} is {getattr(recipe, name)}, which detection has no use"
                " for; set it to 0"
            )
    if experiment.augmentation.flip_labels is not None:
        raise UserError("config: augmentation.flip_labels: boxes carry many labels; leave it empty")
