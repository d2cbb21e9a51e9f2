"""State dict <-> network, with books that account for every entry."""

import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from squeezetime_jax.checkpoint import mindspore_file
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.inert_pickle import Inert
from squeezetime_jax.checkpoint.input import INPUT, input_of
from squeezetime_jax.checkpoint.report import Report, grouped, listed
from squeezetime_jax.checkpoint.stem import is_stem, resample_stem
from squeezetime_jax.checkpoint.torch_file import (
    MAX_CLAIM,
    StoredTensor,
    TorchFile,
    write_torch_file,
)
from squeezetime_jax.checkpoint.torch_names import (
    COUNTER,
    HEAD,
    Row,
    bare_name,
    full_name,
    infer_config,
    rows,
)
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers import registry

logger = logging.getLogger(__name__)

_META = "squeezetime_jax"  # in a file's `meta`: our configuration, for what no shape tells
_NOT_IN_SHAPES = ("dropout", "pooling", "bn_group_size", "dtype")

N = TypeVar("N", bound=SqueezeTime)


@dataclasses.dataclass(frozen=True)
class Kind(Generic[N]):
    """A kind of network, as released files hold it.

    Attributes:
      network: its class.
      head: what released names of its classifier begin with.
    """

    network: type[N]
    head: str

    def abstract(self, config: SqueezeTimeConfig) -> N:
        """The network as shapes."""
        return nnx.eval_shape(lambda: self.network(config, nnx.Rngs(0)))


RECOGNISER: Kind[SqueezeTime] = Kind(SqueezeTime, HEAD)
_HALVING = re.compile(r"layer\d\.0\.downsample\.")


def from_state_dict(
    arrays: Mapping[str, Any], *, allow: str | Iterable[str] = (), **changes: Any
) -> SqueezeTime:
    """Build the network from a PyTorch state dict as arrays, read from safetensors, say.

    Args:
      arrays: released name -> array in PyTorch's layout; prefixes as for `load`.
      allow: regular expressions, searched for in names; what is missing, unexpected or mismatched
        is allowed where one matches.
      **changes: fields of `SqueezeTimeConfig` to have otherwise than the shapes say; the weights
        are adapted to another `num_classes`, `num_frames` and `strides`.

    Returns:
      The network, in evaluation mode.

    Raises:
      CheckpointError: an entry is not accounted for.
    """
    tensors = {name: np.asarray(array) for name, array in arrays.items()}
    model, report = convert(
        tensors, np.asarray, "the state dict", kind=RECOGNISER, allow=allow, changes=changes
    )
    announce(report)
    return model


def from_torch_file(
    path: str | os.PathLike[str],
    *,
    kind: Kind[N] = RECOGNISER,  # type: ignore[assignment]
    allow: str | Iterable[str] = (),
    **changes: Any,
) -> tuple[N, Report]:
    """Build a network from a released `.pth` file; other arguments as for `from_state_dict`.

    Args:
      path: the file.
      kind: what to build.
      allow: entries that may be unaccounted for.
      **changes: fields to have otherwise.

    Returns:
      The network in evaluation mode, and what became of every entry.

    Raises:
      CheckpointError: the file cannot be read, or an entry is not accounted for.
    """
    with TorchFile(path) as file:
        tensors, left_out = _state_dict(file)
        known = _known_config(file)
        model, report = convert(
            tensors,
            file.read,
            file.path,
            kind=kind,
            allow=allow,
            changes={**known, **changes},
        )
    report.left_out.update(left_out)
    return model, report


def from_mindspore_file(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> tuple[SqueezeTime, Report]:
    """Build SqueezeTime from a MindSpore checkpoint; arguments as for `from_state_dict`.

    Returns:
      The network in evaluation mode, and what became of every entry.

    Raises:
      CheckpointError: the file cannot be read, or an entry is not accounted for.
    """
    tensors, left_out = mindspore_file.read_weights(path)
    model, report = convert(
        tensors, np.asarray, os.fspath(path), kind=RECOGNISER, allow=allow, changes=changes
    )
    report.left_out.update(dict.fromkeys(left_out, "not a weight"))
    return model, report


def to_state_dict(
    model: SqueezeTime, prefix: str = "backbone.net.", head: str = HEAD
) -> dict[str, np.ndarray]:
    """The network as a PyTorch state dict, in PyTorch's order and layout.

    Args:
      model: the network.
      prefix: what stands before the backbone's names.
      head: what stands before the classifier's.

    Returns:
      Released name -> a new array. The counters `num_batches_tracked`, which nothing here
      keeps, are 0.
    """
    leaves = flat_leaves(model)
    state_dict = {}
    for row in rows(model.config, leaves):
        if row.layout is None:
            array = np.zeros((), np.int64)
        else:
            array = np.array(row.layout.to_released(np.asarray(leaves[row.path][...])), order="C")
        state_dict[full_name(row.name, prefix, head)] = array
    return state_dict


def to_torch_file(
    path: str | os.PathLike[str],
    model: SqueezeTime,
    *,
    labels: list[str] | None = None,
    head: str = HEAD,
) -> None:
    """Write the network as a `.pth` that the authors' code loads with `strict=True`.

    Raises:
      CheckpointError: the file cannot be written.
    """
    meta: dict[str, Any] = {
        _META: registry.to_json(model.config),
        INPUT: dataclasses.asdict(input_of(model)),
    }
    if labels is not None:
        meta["dataset_meta"] = {"classes": labels}
    write_torch_file(path, {"meta": meta, "state_dict": to_state_dict(model, head=head)})


def announce(report: Report) -> None:
    """Log one line for what was adapted or allowed; none where the weights fitted as they are."""
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
    kind: Kind[N] = RECOGNISER,  # type: ignore[assignment]
    config: SqueezeTimeConfig | None = None,
    allow: str | Iterable[str] = (),
    changes: Mapping[str, Any],
) -> tuple[N, Report]:
    """Build a network from tensors and account for each.

    Args:
      tensors: released name -> something with a `shape` and a `dtype`.
      read: gives a tensor's array.
      source: where they come from, for messages.
      kind: what to build.
      config: what the tensors are of, if known; else read off the shapes.
      allow: as for `from_state_dict`.
      changes: as for `from_state_dict`.
    """
    patterns = _compile(source, allow)
    by_bare = _by_bare_name(tensors, source, kind.head)
    config = _config(
        source, config, {bare: tensors[n].shape for bare, n in by_bare.items()}, changes
    )
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
        config: SqueezeTimeConfig,
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
        table = rows(self.report.config, self._leaves)
        for row in table:
            if row.layout is None:
                continue
            name = self._by_bare.get(row.name)
            if name is None:
                self._plan_missing(row)
            else:
                self._plan_present(row, name)
        self._plan_rest({row.name for row in table if row.layout is not None})

    def fill(self) -> dict[str, Array]:
        """The arrays of all leaves; those that nothing fills are drawn anew."""
        arrays = self._drawn([path for path in self._leaves if path not in self._sources])
        for path, source in self._sources.items():
            arrays[path] = self._array(*source)
        return arrays

    def _drawn(self, paths: list[str]) -> dict[str, Array]:
        """Leaves of a new network, which is let go before anything is read."""
        if not paths:
            return {}
        leaves = flat_leaves(self._kind.network(self.report.config, nnx.Rngs(0)))
        return {path: leaves[path][...] for path in paths}

    def _array(self, row: Row, name: str) -> Array:
        assert row.layout is not None
        array = self._read(self._tensors[name])
        if row.path in self._resampled:
            array = resample_stem(array, self.report.config.num_frames)
        # A copy, so that the caller's arrays stay apart from ours; JAX may keep this one as it is.
        copy = np.array(row.layout.to_ours(array), self._leaves[row.path].dtype, order="C")
        return jax.device_put(copy)

    def _plan_missing(self, row: Row) -> None:
        name = full_name(row.name, head=self._kind.head)
        if "num_classes" in self._changes and row.name.startswith(HEAD):
            self.report.adapted[name] = "not in the file, a new head drawn"
        elif "strides" in self._changes and _HALVING.match(row.name):
            self.report.adapted[name] = "not in the file, new weights drawn for the stride"
        else:
            self.report.missing[name] = str(self._wanted_shape(row))

    def _plan_present(self, row: Row, name: str) -> None:
        tensor, wanted = self._tensors[name], self._wanted_shape(row)
        shape, dtype = tuple(tensor.shape), np.dtype(tensor.dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            self.report.mismatched[name] = f"is {dtype}, wanted floating point"
        elif shape == wanted:
            self._use(row, name, dtype)
        elif "num_classes" in self._changes and row.name.startswith(HEAD):
            self.report.adapted[name] = f"{shape} dropped, a new head of {wanted} drawn"
        elif row.name == "conv1.weight" and is_stem(shape, wanted):
            self.report.adapted[name] = (
                f"stem of {shape[1] // 3} frame(s) resampled to {wanted[1] // 3}"
            )
            self._resampled.add(row.path)
            self._sources[row.path] = row, name
        else:
            self.report.mismatched[name] = f"has shape {shape}, wanted {wanted}"

    def _use(self, row: Row, name: str, dtype: np.dtype) -> None:
        self._sources[row.path] = row, name
        wanted = np.dtype(self._leaves[row.path].dtype)
        if dtype == wanted:
            self.report.used.append(name)
        else:
            self.report.adapted[name] = f"{dtype} converted to {wanted}"

    def _plan_rest(self, known: set[str]) -> None:
        for bare, name in self._by_bare.items():
            if bare in known:
                continue
            if bare.endswith(COUNTER):
                self.report.left_out[name] = "counters that nothing reads"
            elif bare.startswith("roi_head."):
                self.report.left_out[name] = "the detector's head"
            elif "strides" in self._changes and _HALVING.match(bare):
                self.report.adapted[name] = "dropped, the stage keeps its resolution"
            else:
                self.report.unexpected[name] = str(tuple(self._tensors[name].shape))

    def _wanted_shape(self, row: Row) -> tuple[int, ...]:
        assert row.layout is not None
        return row.layout.released_shape(self._leaves[row.path].shape)


def _compile(source: str, allow: str | Iterable[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(p) for p in ([allow] if isinstance(allow, str) else allow)]
    except re.error as error:
        raise CheckpointError(
            f"{source}: allow: {error.pattern!r} is no regular expression: {error}; mend it"
        ) from None


def _by_bare_name(tensors: Mapping[str, Any], source: str, head: str) -> dict[str, str]:
    by_bare: dict[str, str] = {}
    for name in tensors:
        other = by_bare.setdefault(bare_name(name, head), name)
        if other != name:
            raise CheckpointError(
                f"{source}: {other!r} and {name!r} name one weight; give one network's state dict"
            )
    return by_bare


def _config(
    source: str,
    config: SqueezeTimeConfig | None,
    shapes: dict[str, tuple[int, ...]],
    changes: Mapping[str, Any],
) -> SqueezeTimeConfig:
    known = {field.name for field in dataclasses.fields(SqueezeTimeConfig)}
    if unknown := sorted(set(changes) - known):
        raise CheckpointError(
            f"{source}: {unknown[0]!r} is no field of SqueezeTimeConfig; it has {sorted(known)}"
        )
    try:
        return dataclasses.replace(config or infer_config(shapes), **changes)
    except (UserError, ValueError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from None


def _state_dict(file: TorchFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The file's tensors by name, and what it holds besides them, with the rule that leaves it."""
    contents, left_out = file.contents, {}
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{file.path}: holds {_kind(contents)}, wanted a state dict; save model.state_dict()"
        )
    for key in ("state_dict", "model"):
        if isinstance(contents.get(key), dict):
            left_out = {
                str(name): "beside the weights"
                for name, value in contents.items()
                if name != key and not isinstance(value, StoredTensor)
            }
            beside = {n: v for n, v in contents.items() if isinstance(v, StoredTensor)}
            contents = {**beside, **contents[key]}
            break
    tensors = {}
    for name, value in contents.items():
        if isinstance(value, StoredTensor):
            tensors[str(name)] = value
        else:
            left_out[str(name)] = f"{_kind(value)}, not a plain tensor"
    claimed = sum(tensor.nbytes for tensor in tensors.values())
    if claimed > MAX_CLAIM * file.size:
        raise CheckpointError(
            f"{file.path}: damaged: its weights share storage and claim {claimed:,} bytes of "
            f"{file.size:,}; save the state dict's clones"
        )
    if not tensors:
        raise CheckpointError(
            f"{file.path}: no tensors in it, or under 'state_dict' or 'model'; its entries are "
            f"{', '.join(str(name)[:40] for name in list(contents)[:5]) or 'none'}"
        )
    return tensors, left_out


def _kind(value: Any) -> str:
    return value.what if isinstance(value, Inert) else f"a {type(value).__name__}"


def _known_config(file: TorchFile) -> dict[str, Any]:
    """What a file that we wrote says of its configuration and no shape tells."""
    meta = file.contents.get("meta") if isinstance(file.contents, dict) else None
    ours = meta.get(_META) if isinstance(meta, dict) else None
    return {k: ours[k] for k in _NOT_IN_SHAPES if k in ours} if isinstance(ours, dict) else {}
