"""What an experiment says: every field of a config file, with its default and its type.

`Plan` is what the experiments of all tasks say; `Experiment` is recognition's. `training.config`
makes them from config files and command lines.
"""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

from squeezetime_jax.data.augment import Augmentation
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.training.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """The embedded motion data set, made on first use where `data.train` is "motion".

    Attributes:
      num_train: training videos.
      num_test: test videos.
      size: side of the frames, in pixels.
      num_frames: frames of a video.
      difficulty: 0 to 1.
      seed: of the videos.
    """

    num_train: int = 1600
    num_test: int = 400
    size: int = 64
    num_frames: int = 32
    difficulty: float = 0.3
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Where the videos are and which frames make a training clip.

    Attributes:
      train: what to train on: an annotation list, a folder of class folders, a folder of shards,
        or the word "motion".
      test: what to evaluate on, likewise; empty: nothing, or the test split of what `train` names.
      root: what the paths in lists are relative to; empty: the list's own folder.
      test_root: the same for `test`, where it differs.
      train_split: split of shards to train on.
      test_split: split of shards to evaluate on.
      labels: file of class names, a line each; empty: the source's own, or none.
      images: whether `train` and `test` are folders of class folders of pictures, each of which
        becomes a clip that repeats it.
      motion: the embedded data set.
      frame_interval: distance in the video between neighbouring frames of a clip; 0 spreads the
        clip over the whole video, one frame from each of its equal segments.
      short_side: the frames' shorter side after resizing, before the crop.
      crop_size: side of the training crop.
      crop: "multi_scale" (released code) or "center".
      workers: decoding processes on each host; 0: threads of the training process.
    """

    train: str = ""
    test: str = ""
    root: str = ""
    test_root: str = ""
    train_split: str = "train"
    test_split: str = "test"
    labels: str = ""
    images: bool = False
    motion: Motion = dataclasses.field(default_factory=Motion)
    frame_interval: int = 4
    short_side: int = 256
    crop_size: int = 224
    crop: Literal["multi_scale", "center"] = "multi_scale"
    workers: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the test videos are scored while training.

    Attributes:
      every_epochs: epochs from one evaluation to the next; 0: never.
      num_clips: clips of a video.
      num_crops: crops of a clip, 1 (centre) or 3 (along the longer side).
      short_side: the frames' shorter side after resizing.
      crop_size: side of the crop.
      batch_size: videos scored at once, on all devices together.
    """

    every_epochs: float = 1.0
    num_clips: int = 1
    num_crops: int = 1
    short_side: int = 256
    crop_size: int = 224
    batch_size: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """What others report for the experiment, for an evaluation to be compared with.

    Attributes:
      views: of the reported figures, such as "10x3".
      top1: share in [0, 1]; 0: nothing is reported.
      top5: likewise.
      source: where it is reported, such as "released weights" or "paper, Table 7".
    """

    views: str = ""
    top1: float = 0.0
    top5: float = 0.0
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What does not touch the result, and may differ when a run is taken up again.

    Attributes:
      log_steps: steps from one report to the next.
      save_epochs: epochs from one checkpoint to the next; also saved after every evaluation.
      keep: newest checkpoints kept, beside the best.
      tensorboard: whether to write event files.
      profile: first and last step of a profiler trace; (0, 0): none.
      compilation_cache: folder of compiled programs; empty: one in the user's cache folder.
    """

    log_steps: int = 20
    save_epochs: float = 1.0
    keep: int = 2
    tensorboard: bool = True
    profile: tuple[int, int] = (0, 0)
    compilation_cache: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "profile", tuple(self.profile))


@runtime_checkable
class EvaluatesOften(Protocol):
    """How the test data are scored while training, whatever the task."""

    @property
    def every_epochs(self) -> float:
        """Epochs from one evaluation to the next; 0: never."""


@runtime_checkable
class Plan(Protocol):
    """What the experiments of all tasks say alike; fields as in `Experiment`."""

    @property
    def seed(self) -> int:
        """Of everything drawn."""

    @property
    def epochs(self) -> int:
        """Passes over the training data."""

    @property
    def batch_size(self) -> int:
        """Clips in a step."""

    @property
    def init(self) -> str:
        """Weights to start from."""

    @property
    def optimizer(self) -> Recipe:
        """How the weights move."""

    @property
    def evaluation(self) -> EvaluatesOften:
        """How test data are scored on the way."""

    @property
    def run(self) -> Run:
        """What does not touch the result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole training run of recognition.

    Attributes:
      task: "recognition"; other tasks have experiments of their own.
      seed: of everything drawn.
      epochs: passes over the training videos.
      batch_size: clips in a step, on all devices together.
      init: weights to start from, anything `squeezetime_jax.load` takes; empty: drawn anew.
      model: the network.
      data: the videos.
      augmentation: what happens to training clips.
      optimizer: how the weights move.
      evaluation: how test videos are scored on the way.
      published: figures to compare with.
      run: what does not touch the result.
    """

    task: str = "recognition"
    seed: int = 0
    epochs: int = 100
    batch_size: int = 512
    init: str = ""
    model: SqueezeTimeConfig = dataclasses.field(default_factory=SqueezeTimeConfig)
    data: Data = dataclasses.field(default_factory=Data)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    optimizer: Recipe = dataclasses.field(default_factory=Recipe)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    published: Published = dataclasses.field(default_factory=Published)
    run: Run = dataclasses.field(default_factory=Run)
