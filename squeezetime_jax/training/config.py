"""A config: read from a file and the command line, checked, and frozen into an experiment.

A config file takes `default()`, changes fields and returns it; the command line changes fields
after that. Both can only change fields that exist. `parse` makes frozen dataclasses of the result,
those of `training.plan` or of another task.
"""

import dataclasses
import difflib
import importlib.resources
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ml_collections
from absl import flags
from ml_collections import config_flags

from squeezetime_jax.errors import UserError
from squeezetime_jax.training.plan import Data, Experiment
from squeezetime_jax.training.recipe import check_batch

# What stands in a config file for None: a field without a value has no type to check against.
_NOTHING: Mapping[tuple[str, str], Any] = {
    ("augmentation", "flip_labels"): (),
    ("model", "bn_group_size"): 0,
}
# Fields that earlier runs do not have, and what they stand for there.
_ADDED: Mapping[str, Any] = {"model.name": "squeezetime"}
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
        a, b = mine.get(name), other.get(name, _ADDED.get(path + name))
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{path}{name}.")
        elif a != b:
            found.append(f"{path}{name}: {b!r} -> {a!r}")
    return found
