"""An experiment: every field of a config file, with its default, its type and its check.

A config file takes `default()`, changes fields and returns it; the command line changes fields
after that. Both can only change fields that exist. `parse` makes frozen dataclasses of the result.
"""

import dataclasses
import difflib
import importlib.resources
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import ml_collections
from absl import flags
from ml_collections import config_flags

from squeezetime_jax.data.augment import Augmentation
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.training.recipe import Recipe, check_batch


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


# What stands in a config file for None: a field without a value has no type to check against.
_NOTHING: Mapping[tuple[str, str], Any] = {
    ("augmentation", "flip_labels"): (),
    ("model", "bn_group_size"): 0,
}
_E = TypeVar("_E")


def default(kind: type = Experiment) -> ml_collections.ConfigDict:
    """The default experiment of a task, for a config file to change.

    Args:
      kind: the task's dataclass.
    """
    fields = dataclasses.asdict(kind())
    for (section, name), nothing in _NOTHING.items():
        if name in fields.get(section, ()):
            fields[section][name] = fields[section][name] or nothing
    return ml_collections.ConfigDict(fields).lock()


def check_variant(variant: str, *known: str) -> None:
    """Refuse a variant (what follows the colon in `--config FILE:VARIANT`) that a config lacks.

    Raises:
      UserError: naming those that there are.
    """
    if variant not in known:
        raise UserError(f"config: no variant {variant!r}; known are {', '.join(known)}")


def parse(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Experiment:
    """Check a config of recognition and freeze it.

    Raises:
      UserError: a field is unknown (the nearest name is given), or its value is not allowed.
    """
    experiment = parse_as(Experiment, config)
    check_batch(experiment.optimizer, experiment.batch_size, experiment.model.bn_group_size)
    return experiment


def parse_as(kind: type[_E], config: Mapping[str, Any] | ml_collections.ConfigDict) -> _E:
    """Check a config of any task and freeze it.

    Args:
      kind: the task's dataclass.
      config: what `default(kind)` gave, changed.

    Raises:
      UserError: a field is unknown (the nearest name is given), or its value is not allowed.
    """
    fields = _plain(config)
    for section, name in _NOTHING:
        if isinstance(fields.get(section), dict) and name in fields[section]:
            fields[section][name] = fields[section][name] or None
    return _build(kind, fields, "")


def parse_data(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Data:
    """Check and freeze the `data` section alone, for what depends on the data to be filled in."""
    return _build(Data, _plain(config)["data"], "data.")


def fill_in(config: ml_collections.ConfigDict, num_videos: int, num_classes: int) -> None:
    """Choose what a config leaves to the data: `0` classes, epochs or clips in a batch.

    Args:
      config: changed in place.
      num_videos: training videos.
      num_classes: their classes.
    """
    if not config.model.num_classes:
        config.model.num_classes = num_classes
    if not config.batch_size:
        # At least 20 steps in an epoch, for a schedule to have steps to move in.
        config.batch_size = max((n for n in (64, 32, 16, 8) if 20 * n <= num_videos), default=8)
        config.batch_size = min(config.batch_size, num_videos)
    if not config.epochs:
        # Some 60 000 clips: what 50 epochs of HMDB51's 3.5 thousand videos come to, a third of it.
        config.epochs = min(max(round(60_000 / num_videos), 10), 100)


def _plain(value: Any) -> Any:
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _build(kind: type, fields: Mapping[str, Any], path: str) -> Any:
    known = {field.name: field.type for field in dataclasses.fields(kind)}
    values = {}
    for name, value in fields.items():
        if name not in known:
            raise unknown_field(path + name, [path + each for each in known])
        section = known[name]
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            value = _build(section, value, f"{path}{name}.")
        values[name] = value
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"config: {path.rstrip('.') or 'experiment'}: {error}") from error


def unknown_field(name: str, known: Sequence[str]) -> UserError:
    """The error for a misspelt field, with the nearest one that there is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
    return UserError(f"config: no field {name}{hint}")


def read(arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """Read `--config FILE[:VARIANT] --config.field=value ...`.

    Args:
      arguments: the command line's arguments that concern the config.

    Raises:
      UserError: the file or a field is not there, or a value has another type.
    """
    words = _with_path(arguments)
    files = [word for word in words if word.startswith("--config=")]
    file = files[-1].removeprefix("--config=")
    config = _load(files, lambda error: _mistake_in_file(error, file))
    return _load(words, lambda error: _mistake_in_fields(error, words, config.to_dict()))


def _load(
    words: Sequence[str], readable: Callable[[Exception], UserError]
) -> ml_collections.ConfigDict:
    argv = ["squeezetime", *words]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        with warnings.catch_warnings():  # ml_collections loads files in a deprecated way
            warnings.simplefilter("ignore", DeprecationWarning)
            rest = values(argv)[1:]
        config = values.config
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise readable(error) from error
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}; config fields are --config.NAME=VALUE")
    return config


def _mistake_in_file(error: Exception, file: str) -> UserError:
    names = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', str(error))
    if names:
        return UserError(f"config: {file}: no field {names[2]}; did you mean {names[1]}?")
    unknown = re.search(r'Key "(\w+)" does not exist', str(error))
    reason = f"no field {unknown[1]}" if unknown else _last_line(error)
    return UserError(f"config: {file}: {reason}")


def _mistake_in_fields(
    error: Exception, words: Sequence[str], config: Mapping[str, Any]
) -> UserError:
    known = _field_names(config)
    for word in words:
        name = word.split("=")[0].lstrip("-").partition(".")[2]
        if word.startswith("--config.") and name not in known:
            return unknown_field(name, known)
    return UserError(f"config: {_last_line(error)}")


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _field_names(config: Mapping[str, Any], path: str = "") -> list[str]:
    names = []
    for name, value in config.items():
        names.append(path + name)
        if isinstance(value, Mapping):
            names += _field_names(value, f"{path}{name}.")
    return names


def _with_path(arguments: Sequence[str]) -> list[str]:
    """The arguments with the config file's path in full, and one `--config=` for two words."""
    words = list(arguments)
    for place, word in enumerate(words):
        if word in ("--config", "-config") and place + 1 < len(words):
            words[place : place + 2] = [f"--config={words[place + 1]}"]
    given = False
    for place, word in enumerate(words):
        if word.startswith("--config="):
            name, colon, variant = word.removeprefix("--config=").partition(":")
            words[place] = f"--config={find(name)}{colon}{variant}"
            given = True
    if not given:
        raise UserError("--config FILE is missing; for example --config configs/demo.py")
    return words


def find(name: str) -> Path:
    """The config file of that name: a path, or the name of one that comes with the package.

    Raises:
      UserError: there is none; lists those that come with the package.
    """
    path = Path(name)
    if path.is_file():
        return path.absolute()
    shipped = shipped_configs()
    if path.stem in shipped and path.parent.name in ("", "configs"):
        return shipped[path.stem]
    near = difflib.get_close_matches(path.stem, shipped, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"with the package come {', '.join(shipped)}"
    raise UserError(f"config: no file {name}; {hint}")


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package."""
    try:
        folder = importlib.resources.files("squeezetime_jax.configs")
    except ModuleNotFoundError:  # a clone that is run without being installed
        folder = Path(__file__).resolve().parents[2] / "configs"
    files = sorted(Path(str(file)) for file in folder.iterdir() if file.name.endswith(".py"))
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def to_json(experiment: Any) -> dict[str, Any]:
    """The experiment as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


def differences(mine: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> list[str]:
    """Fields that differ, as `name: other's value -> my value`, but for what touches no result."""
    found = []
    for name in sorted({*mine, *other} - ({"run", "published"} if not path else set())):
        a, b = mine.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{path}{name}.")
        elif a != b:
            found.append(f"{path}{name}: {b!r} -> {a!r}")
    return found
