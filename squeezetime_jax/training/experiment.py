"""What an experiment of any task says: its shared fields and sections, with types and defaults.

A task subclasses `Experiment` for the sections that differ in it. `training.config` reads them from
config files and command lines.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, ClassVar

from squeezetime_jax.errors import check_fields
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig
from squeezetime_jax.training.recipe import Recipe

# Metadata of a field that may change when a run is resumed: how.
RESUME = "resume"
PUBLISHED = {
    "top1": "top-1",
    "top5": "top-5",
    "frame_map": "frame mAP",
    "average": "average mAP",
}
"""Fields of `Published` that are shares, and their names in a line of text."""


def may_change(default: Any) -> Any:
    """A field that does not affect what is trained; a resumed run may have another value."""
    return dataclasses.field(default=default, metadata={RESUME: "any"})


def may_grow(default: int) -> Any:
    """A field of which a resumed run may have more."""
    return dataclasses.field(default=default, metadata={RESUME: "more"})


def may_move(default: str = "") -> Any:
    """A field with a path; a resumed run may have another one that ends in the same name."""
    return dataclasses.field(default=default, metadata={RESUME: "same name"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The records to train and test on; a task adds where they are.

    Attributes:
      workers: decoding processes of each host; 0: threads of the training process.
    """

    workers: int = may_change(0)

    def __post_init__(self) -> None:
        check_fields(self, ("workers", self.workers >= 0, "at least 0"), section="data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When the test data are scored during training; a task adds how.

    Attributes:
      every_epochs: epochs from one evaluation to the next; 0: never.
      skip_unreadable: whether records that cannot be read are left out of the scores. Otherwise
        they stop the evaluation.
    """

    every_epochs: float = may_change(1.0)
    skip_unreadable: bool = may_change(False)

    def __post_init__(self) -> None:
        check_fields(
            self, ("every_epochs", self.every_epochs >= 0, "at least 0"), section="evaluation"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """Figures of others, for an evaluation to be compared with. Shares are in [0, 1]; 0: unknown.

    Attributes:
      views: clips x crops of the recognition figures, such as "10x3".
      top1: recognition: share of the videos whose best class is right.
      top5: recognition: share of the videos whose class is among the best five.
      frame_map: detection: mean average precision of frames at IoU 0.5.
      average: localisation: mean average precision over the thresholds.
      source: where they are published, such as "released weights" or "paper, Table 7".
    """

    views: str = ""
    top1: float = 0.0
    top5: float = 0.0
    frame_map: float = 0.0
    average: float = 0.0
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields that have a value."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Settings that do not affect the result; a resumed run may have others.

    Attributes:
      log_steps: steps from one report to the next.
      save_epochs: epochs from one checkpoint to the next; also saved before every evaluation and at
        the end.
      keep: number of newest checkpoints that are kept, beside the best one.
      tensorboard: whether event files are written.
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
        first, last = self.profile
        check_fields(
            self,
            ("log_steps", self.log_steps >= 1, "at least 1"),
            ("save_epochs", self.save_epochs >= 0, "at least 0"),
            ("keep", self.keep >= 1, "at least 1"),
            ("profile", (first, last) == (0, 0) or 1 <= first <= last, "two steps in order"),
            section="run",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training run.

    Attributes:
      task: name of the task, a folder of `squeezetime_jax/tasks`.
      seed: all random numbers follow from it.
      epochs: passes over the training data. A run can be continued with more: the rest of it then
        follows the schedule of the new length.
      batch_size: clips in a step, on all devices together.
      init: weights to start from: a `.pth` file, a checkpoint or a run; empty: drawn from `seed`.
      model: the network; `model.name` is its name in the register.
      data: the records to train and test on.
      optimizer: how the weights are trained.
      evaluation: when and how the test data are scored.
      published: figures to compare with.
      run: settings that do not affect the result.
    """

    # Sections that do not affect what is trained.
    MAY_CHANGE: ClassVar[tuple[str, ...]] = ("published", "run")

    task: str = ""
    seed: int = 0
    epochs: int = may_grow(100)
    batch_size: int = 512
    init: str = ""
    model: NetworkConfig = dataclasses.field(default_factory=SqueezeTimeConfig)
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Recipe = dataclasses.field(default_factory=Recipe)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    published: Published = dataclasses.field(default_factory=Published)
    run: Run = dataclasses.field(default_factory=Run)

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("seed", self.seed >= 0, "at least 0"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        )


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


def as_lines(experiment: Experiment) -> str:
    """Every field, as `section.field = value` in lines."""

    def lines(fields: Mapping[str, Any], path: str) -> list[str]:
        found = []
        for name, value in fields.items():
            if isinstance(value, dict):
                found += lines(value, f"{path}{name}.")
            else:
                found.append(f"{path}{name} = {json.dumps(value)}")
        return found

    return "\n".join(lines(to_json(experiment), ""))


def differences(experiment: Experiment, other: Mapping[str, Any]) -> list[str]:
    """Fields in which an experiment differs from one that was started, as `name: old -> new`.

    Left out are fields that do not affect what is trained: whole sections (`MAY_CHANGE`), fields
    marked `may_change`, larger numbers marked `may_grow`, and paths marked `may_move` that end in
    the same name. A field that `other` lacks had its default.

    Args:
      experiment: the new one.
      other: the old one as JSON, possibly written by an earlier version.
    """
    default = to_json(type(experiment)())
    return _differences(experiment, to_json(experiment), other, default, "")


def _differences(
    section: Any, mine: Any, other: Mapping[str, Any], default: Mapping[str, Any], path: str
) -> list[str]:
    found = []
    left_out = getattr(section, "MAY_CHANGE", ())
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name in sorted({*mine, *other} - {*left_out}):
        new = mine.get(name)
        old = other[name] if name in other else default.get(name)
        if isinstance(new, dict) and isinstance(old, dict):
            inner = getattr(section, name)
            found += _differences(inner, new, old, default.get(name, {}), f"{path}{name}.")
        elif new != old and not _allowed(fields[name].metadata if name in fields else {}, new, old):
            found.append(f"{path}{name}: {old!r} -> {new!r}")
    return found


def _allowed(metadata: Mapping[str, Any], new: Any, old: Any) -> bool:
    rule = metadata.get(RESUME)
    return (
        rule == "any"
        or (rule == "more" and new > old)
        or (rule == "same name" and PurePath(str(new)).name == PurePath(str(old)).name)
    )
