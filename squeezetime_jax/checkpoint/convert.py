"""State dict <-> network, with books that account for every entry."""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from squeezetime_jax.checkpoint import mindspore_file
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.input import INPUT, input_of
from squeezetime_jax.checkpoint.kinds import Kind, Shapes, kinds_of, recognise
from squeezetime_jax.checkpoint.report import Report, grouped, listed
from squeezetime_jax.checkpoint.stem import is_stem, resample_stem
from squeezetime_jax.checkpoint.torch_file import TorchFile, state_dict_of, write_torch_file
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.peers import registry
from squeezetime_jax.peers.released import Row

logger = logging.getLogger(__name__)

_META = "squeezetime_jax"  # in a file's `meta`: our configuration, for what no shape tells
_NOT_IN_SHAPES = ("dropout", "pooling", "bn_group_size", "dtype")

N = TypeVar("N", bound=nnx.Module)
_HEAD = "head."  # what paths of the classifier's leaves begin with
_COUNTER = ".num_batches_tracked"
_HALVING = re.compile(r"layer\d\.0\.downsample\.")


def from_state_dict(
    arrays: Mapping[str, Any], *, allow: str | Iterable[str] = (), **changes: Any
) -> Any:
    """Build a network from a PyTorch state dict as arrays, for example read from safetensors.

    Args:
      arrays: released name -> array in PyTorch's layout; prefixes as for `load`.
      allow: regular expressions, searched for in names; a missing, unexpected or mismatched entry
        is allowed if one matches.
      **changes: fields of the configuration that differ from what the shapes say; the weights are
        adapted to another `num_classes`, SqueezeTime's also to another `num_frames` and `strides`.
        `name` chooses the network, if the names and shapes fit several of the register.

    Returns:
      The network that the names and shapes are of, in evaluation mode.

    Raises:
      CheckpointError: an entry is not accounted for.
    """
    tensors = {name: np.asarray(array) for name, array in arrays.items()}
    model: Any
    model, report = convert(tensors, np.asarray, "the state dict", allow=allow, changes=changes)
    announce(report)
    return model


def from_torch_file(
    path: str | os.PathLike[str],
    *,
    kind: Kind[N] | None = None,
    allow: str | Iterable[str] = (),
    **changes: Any,
) -> tuple[N, Report]:
    """Build a network from a released `.pth` file.

    Args:
      path: the file.
      kind: what to build; by default what the names and shapes are of.
      allow: as for `from_state_dict`.
      **changes: as for `from_state_dict`.

    Returns:
      The network in evaluation mode, and what became of every entry.

    Raises:
      CheckpointError: the file cannot be read, or an entry is not accounted for.
    """
    with TorchFile(path) as file:
        tensors, left_out = state_dict_of(file)
        config, known = _known_config(file)
        model, report = convert(
            tensors,
            file.read,
            file.path,
            kind=kind,
            config=config,
            allow=allow,
            changes={**known, **changes},
        )
    report.left_out.update(left_out)
    return model, report


def from_mindspore_file(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> tuple[Any, Report]:
    """Build SqueezeTime from a MindSpore checkpoint; arguments as for `from_state_dict`.

    Returns:
      The network in evaluation mode, and what became of every entry.

    Raises:
      CheckpointError: the file cannot be read, or an entry is not accounted for.
    """
    tensors, left_out = mindspore_file.read_weights(path)
    model: Any
    model, report = convert(tensors, np.asarray, os.fspath(path), allow=allow, changes=changes)
    report.left_out.update(dict.fromkeys(left_out, "not a weight"))
    return model, report


def config_of_file(path: str | os.PathLike[str]) -> Any:
    """The configuration of the network of a `.pth` or MindSpore file; no weights are read.

    Raises:
      CheckpointError: the file cannot be read, or fits no network.
    """
    if mindspore_file.is_mindspore_file(path):
        tensors, _ = mindspore_file.read_weights(path)
        return _described(tensors, os.fspath(path), None, None, {})[2]
    with TorchFile(path) as file:
        stored, _ = state_dict_of(file)
        config, known = _known_config(file)
        return _described(stored, file.path, None, config, known)[2]


def to_state_dict(
    model: Any, prefix: str | None = None, kind: Kind[Any] | None = None
) -> dict[str, np.ndarray]:
    """The network as a PyTorch state dict, in PyTorch's order and layout.

    Args:
      model: the network.
      prefix: stands before the names, SqueezeTime's head aside; by default that of released files.
      kind: gives the names; by default those that files of this network are written with.

    Returns:
      Released name -> a new array. The counters `num_batches_tracked`, which nothing here keeps,
      are 0.
    """
    kind = kind or kinds_of(model.config.name)[0]
    leaves = flat_leaves(model)
    state_dict = {}
    for row in kind.rows(model.config, leaves):
        if row.order is not None:
            array = np.array(row.to_released(np.asarray(leaves[row.path][...])), order="C")
        else:
            array = np.zeros((), np.int64) if row.constant is None else row.constant
        state_dict[kind.full(row.name, prefix)] = array
    return state_dict


def to_torch_file(
    path: str | os.PathLike[str],
    model: Any,
    *,
    labels: list[str] | None = None,
    kind: Kind[Any] | None = None,
) -> None:
    """Write the network as a `.pth` that the public PyTorch code loads with `strict=True`.

    Args:
      path: the file.
      model: the network.
      labels: the class names in the order of the logits.
      kind: as for `to_state_dict`.

    Raises:
      CheckpointError: the file cannot be written.
    """
    meta: dict[str, Any] = {
        _META: registry.to_json(model.config),
        INPUT: dataclasses.asdict(input_of(model)),
    }
    if labels is not None:
        meta["dataset_meta"] = {"classes": labels}
    write_torch_file(path, {"meta": meta, "state_dict": to_state_dict(model, kind=kind)})


def announce(report: Report) -> None:
    """Log one line for what was adapted or allowed; none if the weights fitted as they are."""
    done = [f"{listed(names)}: {what}" for what, names in grouped(report.adapted).items()]
    if report.allowed:
        done.append(f"{listed(sorted(report.allowed))}: drawn anew or dropped, as allowed")
    if done:
        logger.warning("%s: adapted: %s", report.source, "; ".join(done))


def convert(
    tensors: Mapping[str, Any],
    read: Callable[[Any], np.ndarray],
    source: str,
    *,
    kind: Kind[N] | None = None,
    config: Any = None,
    allow: str | Iterable[str] = (),
    changes: Mapping[str, Any],
) -> tuple[N, Report]:
    """Build a network from tensors and account for each.

    Args:
      tensors: released name -> something with a `shape` and a `dtype`.
      read: gives a tensor's array.
      source: where they come from, for messages.
      kind: what to build; by default what the names and shapes are of.
      config: the configuration that the tensors are of; by default read off the shapes.
      allow: as for `from_state_dict`.
      changes: as for `from_state_dict`.
    """
    patterns = _compile(source, allow)
    kind, by_bare, config = _described(tensors, source, kind, config, changes)
    model = kind.abstract(config)
    filling = _Filling(kind, source, config, flat_leaves(model), tensors, read, by_bare, changes)
    report = filling.report
    filling.plan()
    unaccounted = (*report.missing, *report.unexpected, *report.mismatched)
    report.allowed = {n for n in unaccounted if any(p.search(n) for p in patterns)}
    report.check()
    return filled(model, filling.fill()), report


def filled(model: N, arrays: Mapping[str, Array]) -> N:
    """The abstract network with arrays for its leaves, in evaluation mode."""
    graph, state = nnx.split(model)
    leaves = [
        (path, leaf.replace(arrays[".".join(map(str, path))]))
        for path, leaf in nnx.to_flat_state(state)
    ]
    model = nnx.merge(graph, nnx.from_flat_state(leaves))
    model.eval()
    return model


class _Filling:
    """One conversion: `plan` decides from names and shapes alone, `fill` reads the arrays."""

    def __init__(
        self,
        kind: Kind,
        source: str,
        config: Any,
        leaves: dict[str, nnx.Variable],
        tensors: Mapping[str, Any],
        read: Callable[[Any], np.ndarray],
        by_bare: dict[str, str],
        changes: Mapping[str, Any],
    ) -> None:
        self.report = Report(source, config)
        self._kind = kind
        self._leaves, self._tensors, self._read = leaves, tensors, read
        self._by_bare, self._changes = by_bare, changes
        self._sources: dict[str, tuple[Row, str]] = {}  # our path -> which tensor fills it
        self._resampled: set[str] = set()

    def plan(self) -> None:
        table = self._kind.rows(self.report.config, self._leaves)
        for row in table:
            if row.order is None:
                continue
            name = self._by_bare.get(row.name)
            if name is None:
                self._plan_missing(row)
            else:
                self._plan_present(row, name)
        self._plan_rest({row.name: row.order is not None for row in table})

    def fill(self) -> dict[str, Array]:
        """The arrays of all leaves; those that nothing fills are drawn anew."""
        arrays = self._drawn([path for path in self._leaves if path not in self._sources])
        for path, source in self._sources.items():
            arrays[path] = self._array(*source)
        return arrays

    def _drawn(self, paths: list[str]) -> dict[str, Array]:
        """Leaves of a new network, which is freed before anything is read."""
        if not paths:
            return {}
        leaves = flat_leaves(self._kind.build(self.report.config))
        return {path: leaves[path][...] for path in paths}

    def _array(self, row: Row, name: str) -> Array:
        array = self._read(self._tensors[name])
        if row.path in self._resampled:
            array = resample_stem(array, self.report.config.num_frames)
        # A copy, so that the caller's arrays stay apart from ours; JAX may keep this one as it is.
        copy = np.array(row.to_ours(array), self._leaves[row.path].dtype, order="C")
        return jax.device_put(copy)

    def _plan_missing(self, row: Row) -> None:
        name = self._kind.full(row.name)
        if "num_classes" in self._changes and row.path.startswith(_HEAD):
            self.report.adapted[name] = "not in the file, a new head drawn"
        elif "strides" in self._changes and _HALVING.match(row.name):
            self.report.adapted[name] = "not in the file, new weights drawn for the stride"
        else:
            self.report.missing[name] = str(self._expected_shape(row))

    def _plan_present(self, row: Row, name: str) -> None:
        tensor, expected = self._tensors[name], self._expected_shape(row)
        shape, dtype = tuple(tensor.shape), np.dtype(tensor.dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            self.report.mismatched[name] = f"is {dtype}, expected floating point"
        elif shape == expected:
            self._use(row, name, dtype)
        elif "num_classes" in self._changes and row.path.startswith(_HEAD):
            self.report.adapted[name] = f"{shape} dropped, a new head of {expected} drawn"
        elif row.name == "conv1.weight" and is_stem(shape, expected):
            self.report.adapted[name] = (
                f"stem of {count(shape[1] // 3, 'frame')} resampled to {expected[1] // 3}"
            )
            self._resampled.add(row.path)
            self._sources[row.path] = row, name
        else:
            self.report.mismatched[name] = f"has shape {shape}, expected {expected}"

    def _use(self, row: Row, name: str, dtype: np.dtype) -> None:
        self._sources[row.path] = row, name
        expected = np.dtype(self._leaves[row.path].dtype)
        if dtype == expected:
            self.report.used.append(name)
        else:
            self.report.adapted[name] = f"{dtype} converted to {expected}"

    def _plan_rest(self, known: dict[str, bool]) -> None:
        """Account for entries that fill nothing; `known`: name -> whether it fills a leaf."""
        for bare, name in self._by_bare.items():
            if known.get(bare):
                continue
            if bare.endswith(_COUNTER):
                self.report.left_out[name] = "counters that nothing reads"
            elif bare in known:
                self.report.left_out[name] = "constants that follow from the configuration"
            elif bare.startswith("roi_head."):
                self.report.left_out[name] = "the detector's head"
            elif "strides" in self._changes and _HALVING.match(bare):
                self.report.adapted[name] = "dropped, the stage keeps its resolution"
            else:
                self.report.unexpected[name] = str(tuple(self._tensors[name].shape))

    def _expected_shape(self, row: Row) -> tuple[int, ...]:
        return row.released_shape(self._leaves[row.path].shape)


def _described(
    tensors: Mapping[str, Any],
    source: str,
    kind: Kind[Any] | None,
    config: Any,
    changes: Mapping[str, Any],
) -> tuple[Kind[Any], dict[str, str], Any]:
    """What the tensors are of, their names by bare name, and the configuration."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    kind = kind or _recognise(source, shapes, config, changes)
    by_bare = _by_bare_name(tensors, source, kind)
    bare_shapes = {bare: shapes[name] for bare, name in by_bare.items()}
    return kind, by_bare, _config(source, kind, config, bare_shapes, changes)


def _compile(source: str, allow: str | Iterable[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(p) for p in ([allow] if isinstance(allow, str) else allow)]
    except re.error as error:
        raise CheckpointError(
            f"{source}: allow: {error.pattern!r} is not a regular expression: {error}"
        ) from None


def _recognise(source: str, shapes: Shapes, config: Any, changes: Mapping[str, Any]) -> Kind[Any]:
    known = config.name if config is not None else changes.get("name")
    try:
        return recognise(shapes, known)
    except UserError as error:
        raise CheckpointError(f"{source}: {error}") from None


def _by_bare_name(tensors: Mapping[str, Any], source: str, kind: Kind[Any]) -> dict[str, str]:
    by_bare: dict[str, str] = {}
    for name in tensors:
        other = by_bare.setdefault(kind.bare(name), name)
        if other != name:
            raise CheckpointError(
                f"{source}: {other!r} and {name!r} name one weight; give one network's state dict"
            )
    return by_bare


def _config(
    source: str, kind: Kind[Any], config: Any, shapes: Shapes, changes: Mapping[str, Any]
) -> Any:
    if changes.get("name", kind.name) != kind.name:
        raise CheckpointError(
            f"{source}: weights of the network {kind.name!r}, expected {changes['name']!r}; give"
            f" --config.model.name={kind.name}, or other weights"
        )
    try:
        config = config or kind.infer(shapes)
        known = [field.name for field in dataclasses.fields(config)]
        if unknown := sorted(set(changes) - set(known)):
            raise UserError(f"{kind.name!r} has no field {unknown[0]!r}; it has {known}")
        return dataclasses.replace(config, **changes)
    except (UserError, ValueError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from None


def _known_config(file: TorchFile) -> tuple[Any, dict[str, Any]]:
    """What a file that we wrote says: the configuration, or those of its fields that shapes do not.

    Raises:
      CheckpointError: the configuration is damaged.
    """
    meta = file.contents.get("meta") if isinstance(file.contents, dict) else None
    ours = meta.get(_META) if isinstance(meta, dict) else None
    if not isinstance(ours, dict):
        return None, {}
    if ours.get("name", "squeezetime") == "squeezetime":
        return None, {name: ours[name] for name in _NOT_IN_SHAPES if name in ours}
    try:
        return registry.from_json(ours), {}
    except (UserError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file.path}: damaged meta: {error}") from None
