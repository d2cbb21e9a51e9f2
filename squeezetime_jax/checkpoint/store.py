"""Our own checkpoints, written by Orbax, and the one entry for every kind of weights: `load`.

A checkpoint directory holds numbered steps, and a step holds items side by side, so that each can
be restored without the others: `params` and `batch_stats` (nested dictionaries as
`flax.nnx.to_pure_dict` gives), `meta` (JSON: the configuration, the class names and the network's
input), and whatever else training keeps.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import jax
from etils import epath
from flax import nnx

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import (
    announce,
    config_of_file,
    convert,
    from_mindspore_file,
    from_torch_file,
    to_state_dict,
    to_torch_file,
)
from squeezetime_jax.checkpoint.input import (
    find_input,
    input_from_json,
    input_of,
    input_of_file,
)
from squeezetime_jax.checkpoint.mindspore_file import SUFFIX as MINDSPORE_SUFFIX
from squeezetime_jax.checkpoint.mindspore_file import is_mindspore_file, write_weights
from squeezetime_jax.checkpoint.report import Report
from squeezetime_jax.checkpoint.torch_file import TorchFile
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.peers import registry
from squeezetime_jax.peers.entry import Input

M = TypeVar("M", bound=nnx.Module)

WEIGHTS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}  # item -> what it holds
CHECKPOINTS = "checkpoints"  # the folder of a training run's working directory
RECOGNITION = "recognition"  # the task of a checkpoint that names none
_TORCH_SUFFIXES = (".pth", ".pt")
# What a directory is hardly meant to be called.
_OTHER_SUFFIXES = (
    ".bin",
    ".h5",
    ".json",
    ".npz",
    ".onnx",
    ".pkl",
    ".safetensors",
    ".tflite",
    ".txt",
)


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says about itself.

    Attributes:
      config: the network's configuration, or its backbone's.
      labels: the class names in the order of the logits, if known.
      task: what the network is for.
      settings: JSON; what a task other than recognition needs to build its network again.
      input: what the network expects of its input, if it is not what is published.
    """

    config: Any
    labels: list[str] | None = None
    task: str = RECOGNITION
    settings: Mapping[str, Any] = field(default_factory=dict)
    input: Input | None = None

    def to_json(self) -> dict[str, Any]:
        """The `meta` item."""
        of_task = {"task": self.task, "settings": dict(self.settings)}
        mine: dict[str, Any] = {
            "network": self.config.name,
            "config": registry.to_json(self.config),
            "labels": self.labels,
        }
        if self.input is not None:
            mine["input"] = asdict(self.input)
        return mine if self.task == RECOGNITION else {**mine, **of_task}


def load(path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any) -> Any:
    """Load a network, its configuration read from the file.

    Args:
      path: a released `.pth` (zip format; weights bare or under `state_dict` or `model`; names with
        the prefixes `backbone.net.`, `module.` or none) or MindSpore `.ckpt`, a checkpoint
        directory, one step of it, or a training run's working directory (its newest step).
      allow: regular expressions, searched for in names; what is missing, unexpected or mismatched
        is allowed where one matches.
      **changes: fields of the network's configuration to have otherwise than the file; the weights
        are adapted to another `num_classes`, those of SqueezeTime also to another `num_frames` and
        `strides`, and a line is logged.

    Returns:
      The network, in evaluation mode. Its attribute `input` has the sampling, sizes and
      normalisation that the weights expect; `predict`, `Stream` and export follow it.

    Raises:
      CheckpointError: the path is no checkpoint, or something in it is not accounted for.
    """
    model, report = load_with_report(path, allow=allow, **changes)
    announce(report)
    return model


def load_with_report(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> tuple[Any, Report]:
    """As `load`, and what became of every entry; nothing is logged."""
    model: Any  # with its input
    if not epath.Path(path).is_dir() or _is_unpacked(epath.Path(path)):
        read = from_mindspore_file if is_mindspore_file(path) else from_torch_file
        model, report = read(path, allow=allow, **changes)
        model.input = read_input(path, model.config)
        return model, report
    step = find_step(path)
    model = load_model(path)
    expected = read_input(path, model.config)
    if changes:
        model, report = convert(
            *(to_state_dict(model), _itself, os.fspath(path)),
            config=model.config,
            allow=allow,
            changes=changes,
        )
    else:
        report = Report(os.fspath(path), model.config, used=list(flat_leaves(model)))
    for item in step.iterdir():
        if item.is_dir() and item.name not in (*WEIGHTS, "meta"):
            report.left_out[item.name] = "beside the weights"
    model.input = expected
    return model, report


def save_model(
    path: str | os.PathLike[str],
    model: Any,
    *,
    labels: list[str] | None = None,
    task: str = RECOGNITION,
) -> None:
    """Write a checkpoint directory with one step, whole or not at all.

    Args:
      path: the directory; it must not exist, or be empty.
      model: the network.
      labels: the class names in the order of the logits.
      task: what the network is for.

    Raises:
      CheckpointError: something is there already, or it cannot be written.
    """
    import orbax.checkpoint as ocp  # takes seconds to import

    check_labels(path, model.config, labels)
    target = epath.Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"{path}: exists already; remove it or give another path")
    weights = with_arrays(weights_of(model))
    items = {name: ocp.args.StandardSave(tree) for name, tree in weights.items()}
    meta = ocp.args.JsonSave(Meta(model.config, labels, task, input=input_of(model)).to_json())
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    try:
        with ocp.CheckpointManager(target.absolute(), options=options) as manager:
            manager.save(0, args=ocp.args.Composite(meta=meta, **items))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None


def load_model(path: str | os.PathLike[str]) -> Any:
    """Read the network of a checkpoint directory, a step of it, or a run's working directory.

    Returns:
      The network, in evaluation mode, on the default device.

    Raises:
      CheckpointError: there is no checkpoint, it does not fit its own configuration, or it is of
        another task.
    """
    step = find_step(path)
    meta = read_meta(step)
    if meta.task != RECOGNITION:
        raise CheckpointError(
            f"{path}: expected a network for {RECOGNITION}, got one for {meta.task}; see"
            " `squeezetime --help` for the command of that task"
        )
    model = restore_module(step, registry.abstract(meta.config))
    model.eval()
    return model


def restore_module(path: str | os.PathLike[str], module: M) -> M:
    """Fill a module with the weights of a checkpoint directory, a step of it, or a run.

    Args:
      path: the checkpoint.
      module: the network as shapes.

    Returns:
      The network, on the default device.

    Raises:
      CheckpointError: there is no checkpoint, or its arrays are not the module's.
    """
    import orbax.checkpoint as ocp

    step = find_step(path)
    graph, *states = nnx.split(module, *WEIGHTS.values())
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    for item, state in zip(WEIGHTS, states, strict=True):
        expected = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            nnx.to_pure_dict(state),
        )
        if not jax.tree.leaves(expected):
            continue
        try:
            with _quiet_orbax(), ocp.StandardCheckpointer() as checkpointer:
                folder = (step / item).absolute()
                _check_shapes(checkpointer.metadata(folder).item_metadata, expected)
                found = checkpointer.restore(folder, expected)
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CheckpointError(
                f"{step / item}: damaged, or not of the configuration in its meta: {reason}; "
                "take another step or convert the weights again"
            ) from None
        nnx.replace_by_pure_dict(state, found)
    return nnx.merge(graph, *states)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax warns of a file that it only writes for whole steps, and does not need."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_shapes(found: Any, expected: Any) -> None:
    """Raise ValueError for the first array that is missing, too many or of another shape."""
    if found is None:
        raise ValueError("the list of its arrays is missing")
    trees = [jax.tree_util.tree_leaves_with_path(tree) for tree in (found.tree, expected)]
    shapes = [
        {".".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in tree}
        for tree in trees
    ]
    for name in {**shapes[0], **shapes[1]}:
        held, needed = (tree.get(name) for tree in shapes)
        if held != needed:
            raise ValueError(f"{name} has shape {held}, expected {needed}")


def weights_of(model: nnx.Module) -> dict[str, Any]:
    """The `params` and `batch_stats` items, as nested dictionaries of arrays."""
    return {item: nnx.to_pure_dict(nnx.state(model, kind)) for item, kind in WEIGHTS.items()}


def with_arrays(items: Mapping[str, Any]) -> dict[str, Any]:
    """The items that hold arrays: a network without batch norm has no statistics.

    Orbax does not write empty trees.
    """
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def read_meta(path: str | os.PathLike[str]) -> Meta:
    """What a checkpoint directory says of itself; paths as for `load_model`.

    Raises:
      CheckpointError: there is no checkpoint, or its meta is damaged.
    """
    file = find_step(path) / "meta" / "metadata"
    try:
        fields = json.loads(file.read_text())
        labels = fields["labels"]
        network = fields.get("network", "squeezetime")  # version 0.1 had no other
        config = registry.from_json({"name": network} | fields["config"])
        if not (labels is None or _are_labels(labels, config)):
            raise ValueError(f"expected {config.num_classes} labels")
        return Meta(
            config,
            labels,
            fields.get("task", RECOGNITION),
            fields.get("settings", {}),
            input_from_json(fields.get("input")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged: {error}; convert the weights again") from None


def read_config(path: str | os.PathLike[str]) -> NetworkConfig:
    """The configuration of the network of anything that `load` takes; no weights are read.

    Raises:
      CheckpointError: there is no checkpoint, or it is damaged.
    """
    is_file = not epath.Path(path).is_dir() or _is_unpacked(epath.Path(path))
    return config_of_file(path) if is_file else read_meta(path).config


def read_labels(path: str | os.PathLike[str]) -> list[str] | None:
    """The class names that a `.pth` file or a checkpoint directory carries, if it does.

    Raises:
      CheckpointError: the path is neither.
    """
    if epath.Path(path).is_dir():
        return read_meta(path).labels
    if is_mindspore_file(path):
        return None
    with TorchFile(path) as file:
        contents = file.contents
    for key in ("meta", "dataset_meta", "classes"):  # where mmengine keeps them
        contents = contents.get(key) if isinstance(contents, dict) else None
    labels = list(contents) if isinstance(contents, list | tuple) else []
    return labels if labels and all(isinstance(label, str) for label in labels) else None


def read_input(path: str | os.PathLike[str], config: NetworkConfig) -> Input:
    """What the network of a checkpoint expects of its input.

    Args:
      path: as for `load`.
      config: the network's configuration.

    Raises:
      CheckpointError: the checkpoint, or the config of its run, is damaged.
    """
    is_file = not epath.Path(path).is_dir() or _is_unpacked(epath.Path(path))
    written = input_of_file(path) if is_file else read_meta(path).input
    return written or find_input(path, config)


def find_step(path: str | os.PathLike[str]) -> epath.Path:
    """The directory of one step: the path itself, or the newest step in it.

    Raises:
      CheckpointError: there is none.
    """
    root = epath.Path(path)
    if _is_step(root):
        return root
    for folder in (root, root / CHECKPOINTS):
        if folder.is_dir():
            steps = [step for step in folder.iterdir() if step.name.isdecimal() and _is_step(step)]
            if steps:
                return max(steps, key=lambda step: int(step.name))
    found = "a directory without a checkpoint in it" if root.is_dir() else "no checkpoint directory"
    raise CheckpointError(
        f"{path}: {found}; give a .pth file, what `squeezetime convert` wrote, or a --workdir"
    )


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    allow: str | Iterable[str] = (),
    **changes: Any,
) -> Report:
    """Convert weights between PyTorch's format, MindSpore's and ours, in any direction.

    Args:
      source: anything that `load` takes.
      target: a file ending in .pth or .pt (PyTorch) or .ckpt (MindSpore), or else a directory for
        our own format.
      allow: as for `load`.
      **changes: as for `load`.

    Returns:
      What became of every entry.

    Raises:
      CheckpointError: as for `load`; or the target cannot be written.
    """
    if os.path.splitext(target)[1] in _OTHER_SUFFIXES:
        raise CheckpointError(
            f"{target}: expected a path that ends in .pth or .ckpt, or a new checkpoint directory;"
            " `squeezetime export` writes other formats"
        )
    model, report = load_with_report(source, allow=allow, **changes)
    labels = read_labels(source)
    if labels is not None and len(labels) != model.config.num_classes:
        labels = None  # the head is a new one
    if os.fspath(target).endswith(_TORCH_SUFFIXES):
        to_torch_file(target, model, labels=labels)
    elif os.fspath(target).endswith(MINDSPORE_SUFFIX):
        if model.config.name != "squeezetime":
            raise CheckpointError(
                f"{target}: MindSpore's format is written for squeezetime only, got"
                f" {model.config.name}; give a directory"
            )
        write_weights(target, to_state_dict(model))
    else:
        save_model(target, model, labels=labels)
    return report


def check_labels(
    path: str | os.PathLike[str], config: NetworkConfig, labels: list[str] | None
) -> None:
    """Refuse class names that are not the network's.

    Raises:
      CheckpointError: their number is not the number of classes.
    """
    if not (labels is None or _are_labels(labels, config)):
        raise CheckpointError(
            f"{path}: {len(labels)} labels for {config.num_classes} classes; give one per class"
        )


def _are_labels(labels: Any, config: NetworkConfig) -> bool:
    return (
        isinstance(labels, list)
        and len(labels) == config.num_classes
        and all(isinstance(label, str) for label in labels)
    )


def _is_step(path: epath.Path) -> bool:
    return (path / "meta" / "metadata").exists() and (path / "params").is_dir()


def _is_unpacked(path: epath.Path) -> bool:
    """Whether the directory is an unpacked `.pth`, which the file reader has advice for."""
    return any(True for _ in path.glob("data.pkl")) or any(True for _ in path.glob("*/data.pkl"))


def _itself(array: Any) -> Any:
    return array
