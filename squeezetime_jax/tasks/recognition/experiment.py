"""The sections of an experiment that are recognition's own."""

import dataclasses
from typing import Literal

from squeezetime_jax.data.augment import Augmentation
from squeezetime_jax.data.transforms import NUM_CROPS, ViewProtocol
from squeezetime_jax.errors import check_fields
from squeezetime_jax.peers import registry
from squeezetime_jax.peers.entry import Input
from squeezetime_jax.training import experiment
from squeezetime_jax.training.experiment import may_change, may_move


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion:
    """The embedded motion data set, made on first use if `data.train` is "motion".

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
class Data(experiment.Data):
    """Where the videos are, and which frames make a training clip.

    Attributes:
      train: what to train on: an annotation list, a folder of class folders, a folder of shards, or
        the word "motion".
      test: what to evaluate on, likewise; empty: nothing, or the test split of "motion".
      root: folder that the paths in lists are relative to; empty: the list's own.
      test_root: the same for `test`; empty: `root`.
      train_split: split of shards to train on.
      test_split: split of shards to evaluate on.
      labels: file of class names, one a line; empty: the source's own, or none.
      images: whether `train` and `test` are folders of class folders of pictures, each of which is
        repeated to a clip.
      motion: the embedded data set.
      frame_interval: distance in the video between neighbouring frames of a clip; 0 spreads the
        clip over the whole video, one frame from each of its equal segments.
      target_fps: take clips in time, as if every video had so many frames a second; 0 counts the
        frames of the video, whatever their rate, as the released code does.
      short_side: the frames' shorter side after resizing, before the crop.
      crop_size: side of the training crop.
      crop: "multi_scale" (released code) or "center".
    """

    train: str = may_move()
    test: str = may_move()
    root: str = may_change("")
    test_root: str = may_change("")
    train_split: str = "train"
    test_split: str = "test"
    labels: str = may_move()
    images: bool = False
    motion: Motion = dataclasses.field(default_factory=Motion)
    frame_interval: int = 4
    target_fps: float = 0.0
    short_side: int = 256
    crop_size: int = 224
    crop: Literal["multi_scale", "center"] = "multi_scale"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            ("frame_interval", self.frame_interval >= 0, "at least 0"),
            ("target_fps", 0 <= self.target_fps <= 1000, "0 to 1000"),
            ("short_side", self.short_side >= 1, "at least 1"),
            ("crop_size", self.crop_size >= 1, "at least 1"),
            ("crop", self.crop in ("multi_scale", "center"), "'multi_scale' or 'center'"),
            section="data",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(experiment.Evaluation):
    """How the test videos are scored.

    Attributes:
      num_clips: clips of a video.
      num_crops: crops of a clip, 1 (centre), 3 (along the longer side) or 10 (corners and centre,
        also mirrored).
      num_frames: of a clip; 0: as many as in training.
      short_side: the frames' shorter side after resizing.
      crop_size: side of the crop.
      batch_size: videos scored at once, on all devices together.
    """

    num_clips: int = 1
    num_crops: int = 1
    num_frames: int = 0
    short_side: int = 256
    crop_size: int = 224
    batch_size: int = may_change(64)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(
            self,
            ("num_clips", self.num_clips >= 1, "at least 1"),
            ("num_frames", self.num_frames >= 0, "at least 0"),
            ("num_crops", self.num_crops in NUM_CROPS, "1, 3 or 10"),
            ("crop_size", 1 <= self.crop_size <= self.short_side, "1 to evaluation.short_side"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            section="evaluation",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recognition(experiment.Experiment):
    """A training run of recognition.

    Attributes:
      data: the videos.
      augmentation: what happens to training clips.
      evaluation: when and how test videos are scored.
      follow_init: whether the network, the frame interval and the sizes are those of the weights of
        `init`, where the command line does not say otherwise; the config's do not count then.
    """

    task: str = "recognition"
    data: Data = dataclasses.field(default_factory=Data)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    follow_init: bool = may_change(False)

    def expected_input(self) -> Input:
        """What the trained network expects of its input: clips as it is tested with."""
        return dataclasses.replace(
            registry.entry_of(self.model).input,
            sampling="interval" if self.data.frame_interval else "segments",
            frame_interval=self.data.frame_interval or 1,
            fps=self.data.target_fps or None,
            in_time=bool(self.data.target_fps),
            short_side=self.evaluation.short_side,
            crop_side=self.evaluation.crop_size,
            train_side=self.data.crop_size,
            num_crops=self.evaluation.num_crops,
            num_clips=self.evaluation.num_clips,
            test_frames=self.evaluation.num_frames or None,
        )

    def views(self) -> ViewProtocol:
        """The views of a video that an evaluation scores."""
        return ViewProtocol(
            num_clips=self.evaluation.num_clips,
            num_crops=self.evaluation.num_crops,
            short_side=self.evaluation.short_side,
            crop_size=self.evaluation.crop_size,
            num_frames=self.evaluation.num_frames or self.model.num_frames,
            frame_interval=self.data.frame_interval or None,
            target_fps=self.data.target_fps or None,
        )
