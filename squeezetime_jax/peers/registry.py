"""The register of networks: SqueezeTime and those that the paper compares it with.

    names()                                 # "squeezetime", "tsm_r18", "x3d_xs", ...
    model = create("tsm_r18", num_classes=51)          # evaluation mode, drawn from a seed
    config = configure("tsm_r18", num_classes=51)      # what `model.config` is
    entry_of("tsm_r18").input               # what it expects of its input

A configuration is a frozen dataclass, a `model.config.NetworkConfig` with fields of its own. A
module has `config`, `__call__(clips, rngs=None) -> logits`, `features(clips)` and
`stage_maps(clips)` with clips of shape (n, t, h, w, 3). To add a network, put its `Entry` into the
`ENTRIES` of its file, its figures into `published`, and a new file into `_FILES` below.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from flax import nnx

from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import NetworkConfig, as_tuple
from squeezetime_jax.peers import (
    e3d,
    mobile,
    mvit,
    resnets,
    squeezetime,
    transformers,
    video_swin,
    x3d,
)
from squeezetime_jax.peers.entry import Entry

_FILES = (squeezetime, resnets, x3d, mobile, e3d, mvit, video_swin, transformers)
_ENTRIES = {entry.name: entry for file in _FILES for entry in file.ENTRIES}


def names() -> list[str]:
    """The names of all networks, SqueezeTime first."""
    return list(_ENTRIES)


def entry_of(network: str | NetworkConfig | nnx.Module) -> Entry:
    """The entry of a network, given its name, its configuration or a module.

    Raises:
      UserError: there is no network of this name; the nearest name is given.
    """
    config = getattr(network, "config", network)
    name = getattr(config, "name", config)
    if name in _ENTRIES:
        return _ENTRIES[name]
    near = difflib.get_close_matches(str(name), _ENTRIES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"network {name!r} not found; known are {', '.join(_ENTRIES)}{hint}")


def configure(name: str, /, **changes: Any) -> NetworkConfig:
    """The configuration of a network as published, with other values for some fields.

    Raises:
      UserError: there is no such network or no such field, or a value is invalid.
    """
    published = entry_of(name).config
    known = [field.name for field in dataclasses.fields(published) if field.name != "name"]
    for field in changes:
        if field not in known:
            raise UserError(f"network {name!r} has no field {field!r}; it has {', '.join(known)}")
    try:
        return dataclasses.replace(published, **changes)
    except (ValueError, TypeError) as error:
        raise UserError(f"network {name!r}: {error}") from None


def build(config: NetworkConfig, rngs: nnx.Rngs) -> Any:
    """A new network, in training mode."""
    return entry_of(config).build(config, rngs)


def abstract(config: NetworkConfig) -> Any:
    """The network with `jax.ShapeDtypeStruct` in the place of arrays: nothing is drawn."""
    return nnx.eval_shape(lambda: build(config, nnx.Rngs(0)))


def create(name: str, /, *, seed: int = 0, **changes: Any) -> Any:
    """Make a network, initialised as published.

    Examples:
      >>> import squeezetime_jax as st
      >>> model = st.create("tsm_r18", num_classes=51)
      >>> model.config.num_frames
      8

    Args:
      name: one of `names()`.
      seed: the initial parameters are drawn from this.
      **changes: fields of the network's configuration, such as `num_classes`, that differ from the
        published ones.

    Returns:
      The network, in evaluation mode.

    Raises:
      UserError: there is no such network or no such field, or a value is invalid.
    """
    model = build(configure(name, **changes), nnx.Rngs(seed))
    model.eval()
    return model


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """A configuration as JSON has it."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def from_json(fields: Mapping[str, Any]) -> NetworkConfig:
    """A configuration from JSON; without a name it is SqueezeTime's.

    Raises:
      UserError: the network is unknown.
      ValueError: a field has an invalid value.
      TypeError: the configuration has no such field.
    """
    entry = entry_of(fields.get("name", "squeezetime"))
    return type(entry.config)(
        **{"name": entry.name, **{name: as_tuple(value) for name, value in fields.items()}}
    )
