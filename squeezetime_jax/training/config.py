"""A config: read from a file and the command line, checked, and frozen into an experiment.

A config file takes `default()`, changes fields and returns it; the command line changes fields
after that. Both can only change fields that exist. `parse` makes a frozen `Experiment` of the
result. Here, `fields` are what can still be changed.
"""

import ast
import dataclasses
import difflib
import importlib.resources
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.peers import registry
from squeezetime_jax.training.task import find_task

# Config files have these values for None: a field without a value has no type to check against.
_EMPTY: Mapping[tuple[str, str], Any] = {
    ("augmentation", "flip_labels"): (),
    ("model", "bn_group_size"): 0,
}
_NETWORK, _INIT = "--config.model.name=", "--config.init="


def default(task: str = "recognition") -> ml_collections.ConfigDict:
    """The default experiment of a task, for a config file to change.

    Args:
      task: name of the task.
    """
    kind = find_task(task).experiment_type
    fields = {
        name: _with_empty(name, value) if isinstance(value, dict) else value
        for name, value in dataclasses.asdict(kind()).items()
    }
    return ml_collections.ConfigDict(fields).lock()


def use_network(fields: ml_collections.ConfigDict, name: str) -> None:
    """Set another network, as published; its classes, dtype and groups of batch norm stay.

    Args:
      fields: of an experiment; changed in place.
      name: of the network, in the register.

    Raises:
      UserError: there is no such network.
    """
    kept = {each: fields.model[each] for each in ("num_classes", "dtype", "bn_group_size")}
    set_network(fields, registry.entry_of(name).config)
    fields.model.update(kept)


def set_network(fields: ml_collections.ConfigDict, network: NetworkConfig) -> None:
    """Set another network with all its fields.

    Args:
      fields: of an experiment; changed in place.
      network: its configuration.
    """
    with fields.unlocked():
        fields.model = ml_collections.ConfigDict(_with_empty("model", dataclasses.asdict(network)))
    fields.lock()


def check_variant(variant: str, *known: str) -> None:
    """Refuse a variant (what follows the colon in `--config FILE:VARIANT`) that a config lacks.

    Raises:
      UserError: naming those that there are.
    """
    if variant not in known:
        raise UserError(f"config: no variant {variant!r}; known are {', '.join(known)}")


def parse(fields: Mapping[str, Any] | ml_collections.ConfigDict) -> Any:
    """Check the fields of an experiment and freeze it.

    Args:
      fields: what `default` gave, changed.

    Returns:
      An object of the task's subclass of `Experiment`.

    Raises:
      UserError: a field is unknown (the nearest name is given), or its value is invalid.
    """
    plain = _plain(fields)
    experiment = _build(find_task(plain["task"]).experiment_type, plain, "")
    if experiment.model.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError(
            "config: model.dtype is 'float64', which JAX computes in float32 unless the environment"
            " has JAX_ENABLE_X64=1; set it, or choose 'float32'"
        )
    return experiment


def parse_section(fields: Mapping[str, Any] | ml_collections.ConfigDict, name: str) -> Any:
    """Check and freeze one section, for when others are not filled in yet.

    Raises:
      UserError: as `parse`.
    """
    plain = _plain(fields)
    kind = find_task(plain["task"]).experiment_type
    (section,) = (each.type for each in dataclasses.fields(kind) if each.name == name)
    return _build(section, plain[name], f"{name}.")  # type: ignore[arg-type]


def _with_empty(section: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A section with empty values for None."""
    empty = {name: value for (each, name), value in _EMPTY.items() if each == section}
    return fields | {name: fields[name] or value for name, value in empty.items() if name in fields}


def _plain(fields: Any) -> Any:
    """The same as dictionaries and tuples, with None where a config file has an empty value."""
    if isinstance(fields, ml_collections.ConfigDict):
        fields = fields.to_dict()
    if not isinstance(fields, Mapping):
        return tuple(fields) if isinstance(fields, list) else fields
    plain = {name: _plain(value) for name, value in fields.items()}
    for section, name in _EMPTY:
        if isinstance(plain.get(section), dict) and name in plain[section]:
            plain[section][name] = plain[section][name] or None
    return plain


def _build(kind: type, fields: Mapping[str, Any], path: str) -> Any:
    if kind is NetworkConfig:  # which one, says its name
        kind = type(registry.entry_of(fields.get("name", "squeezetime")).config)
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
        raise UserError(f"config: {_with_section(str(error), path, known)}") from error


def _with_section(message: str, path: str, fields: Mapping[str, Any]) -> str:
    """The message of a section's class, with the section in front unless it is there."""
    if message.split(" ")[0].rstrip(":") in fields:
        return path + message
    return message if not path or message.startswith(path) else f"{path.rstrip('.')}: {message}"


def unknown_field(name: str, known: Sequence[str]) -> UserError:
    """The error for a misspelt field, with the nearest one that there is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
    return UserError(f"config: no field {name}{hint}")


def read(arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """Read `--config FILE[:VARIANT] --config.field=value ...`.

    `--config.model.name=NAME` replaces the network of the file; see `use_network`. A config with
    `follow_init` takes network and sampling from the weights that the run starts from; fields on
    the command line have precedence.

    Args:
      arguments: the command line's arguments that concern the config.

    Raises:
      UserError: the file or a field is not there, or a value has another type.
    """
    words = _with_path(arguments)
    *_, file = [word for word in words if word.startswith("--config=")]
    path = file.removeprefix("--config=")
    fields = _load([file], None, lambda error: _mistake_in_file(error, path))
    inits = [word.removeprefix(_INIT) for word in words if word.startswith(_INIT)]
    if fields.get("follow_init"):
        find_task(fields.task).follow(fields, inits[-1] if inits else fields.init)
    names = [word.removeprefix(_NETWORK) for word in words if word.startswith(_NETWORK)]
    if names and names[-1] != fields.model.name:
        use_network(fields, names[-1])
    changes = [word for word in words if not word.startswith("--config=")]
    return _load(changes, fields, lambda error: _mistake_in_fields(error, words, fields.to_dict()))


def _load(
    words: Sequence[str],
    fields: ml_collections.ConfigDict | None,
    readable: Callable[[Exception], UserError],
) -> ml_collections.ConfigDict:
    """The config of the file that `words` name, or `fields` as `words` change them."""
    argv = ["squeezetime", *words]
    values = flags.FlagValues()
    try:
        with warnings.catch_warnings():  # ml_collections loads files in a deprecated way
            warnings.simplefilter("ignore", DeprecationWarning)
            if fields is None:
                config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
            else:
                config_flags.DEFINE_config_dict("config", fields, flag_values=values, sys_argv=argv)
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


def describe(path: Path) -> str:
    """What a config file is for, in lines: its title, its results, its variants."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    title, *rest = text.splitlines()
    found = [title]
    result = re.search(
        r"^(Accuracy|Frame mAP|Mean average precision).*(\n  .*)*", text, re.MULTILINE
    )
    if result:
        found.append(" ".join(result[0].split()))
    variants = re.findall(r"^  (:\w+) ", "\n".join(rest), re.MULTILINE)
    if variants:
        found.append(f"variants: {', '.join(variants)}")
    return "\n".join(found)
