"""A detector's weights: the authors' file, a recogniser's to start from, our own checkpoints."""

import os
from collections.abc import Iterable
from typing import Any

from etils import epath

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import (
    Kind,
    announce,
    convert,
    from_torch_file,
    to_torch_file,
)
from squeezetime_jax.checkpoint.convert import to_state_dict as _to_state_dict
from squeezetime_jax.checkpoint.report import Report
from squeezetime_jax.checkpoint.store import (
    RECOGNITION,
    load_model,
    read_labels,
    read_meta,
    restore_module,
    save_model,
)
from squeezetime_jax.checkpoint.torch_file import TorchFile
from squeezetime_jax.checkpoint.torch_names import DETECTOR_HEAD
from squeezetime_jax.tasks.detection.config import TASK
from squeezetime_jax.tasks.detection.detector import Detector, abstract_detector

DETECTOR = Kind(Detector, DETECTOR_HEAD)


def load_detector(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> Detector:
    """Load a detector, its configuration read from the file.

    Args:
      path: the authors' `.pth`, or one of a recogniser; or a checkpoint directory of either, a step
        of it, or a run's working directory.
      allow: regular expressions, searched for in names; what is missing, unexpected or mismatched
        is allowed where one matches.
      **changes: fields of `SqueezeTimeConfig` to have otherwise; from a recogniser at least
        `num_classes` and `strides` will differ. What is adapted is logged in one line.

    Returns:
      The detector, in evaluation mode.

    Raises:
      CheckpointError: the path is no checkpoint, or something in it is not accounted for.
    """
    model, report = load_with_report(path, allow=allow, **changes)
    announce(report)
    return model


def load_with_report(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> tuple[Detector, Report]:
    """As `load_detector`, and what became of every entry; nothing is logged."""
    if not epath.Path(path).is_dir():
        return from_torch_file(path, kind=DETECTOR, allow=allow, **changes)
    meta = read_meta(path)
    if meta.task == RECOGNITION:
        recogniser = load_model(path)
        tensors, config = _to_state_dict(recogniser), recogniser.config
    elif meta.task == TASK:
        detector = restore_module(path, abstract_detector(meta.config))
        detector.eval()
        tensors, config = to_state_dict(detector), detector.config
    else:
        raise CheckpointError(f"{path}: holds a network for {meta.task}, wanted one for {TASK}")
    return convert(
        tensors,
        lambda array: array,
        os.fspath(path),
        kind=DETECTOR,
        config=config,
        allow=allow,
        changes=changes,
    )


def to_state_dict(model: Detector) -> dict[str, Any]:
    """The detector as the authors' state dict: `backbone.net.*`, `roi_head.bbox_head.fc_cls.*`."""
    return _to_state_dict(model, head=DETECTOR_HEAD)


def write_torch_file(
    path: str | os.PathLike[str], model: Detector, *, labels: list[str] | None = None
) -> None:
    """Write the detector as a `.pth` with the released names.

    Raises:
      CheckpointError: the file cannot be written.
    """
    to_torch_file(path, model, labels=labels, head=DETECTOR_HEAD)


def holds_detector(path: str | os.PathLike[str]) -> bool:
    """Whether a file or a checkpoint directory holds a detector.

    Raises:
      CheckpointError: it is neither.
    """
    if epath.Path(path).is_dir():
        return read_meta(path).task == TASK
    with TorchFile(path) as file:
        contents = file.contents if isinstance(file.contents, dict) else {}
    parts = [contents, *(contents.get(key) for key in ("state_dict", "model"))]
    names = [str(name) for part in parts if isinstance(part, dict) for name in part]
    return any(DETECTOR_HEAD in name for name in names)


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    allow: str | Iterable[str] = (),
    **changes: Any,
) -> Report:
    """Convert a detector's weights between PyTorch's format and ours, in either direction.

    Args:
      source: anything that `load_detector` takes.
      target: a file ending in .pth, or else a directory for our own format.
      allow: as for `load_detector`.
      **changes: as for `load_detector`.

    Raises:
      CheckpointError: as for `load_detector`; or the target cannot be written.
    """
    model, report = load_with_report(source, allow=allow, **changes)
    labels = read_labels(source)
    if labels is not None and len(labels) != model.config.num_classes:
        labels = None  # the head is a new one
    if os.fspath(target).endswith((".pth", ".pt")):
        write_torch_file(target, model, labels=labels)
    else:
        save_model(target, model, labels=labels, task=TASK)
    return report
