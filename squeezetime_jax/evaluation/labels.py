"""Class names: from a label map, a checkpoint or a well-known data set."""

import importlib.resources
import os
from collections.abc import Sequence
from pathlib import Path

from squeezetime_jax.checkpoint.store import read_labels
from squeezetime_jax.data.lists import read_class_names
from squeezetime_jax.errors import UserError

BUILT_IN = {"kinetics400": 400, "kinetics600": 600, "hmdb51": 51}
"""Data sets whose class names are in this package -> number of classes."""


def class_names(
    num_classes: int,
    *,
    labels: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> tuple[list[str] | None, str]:
    """The class names in the order of the logits, and their origin.

    The first of these that exists: `labels`, the names in the checkpoint, the names of the built-in
    data set with as many classes.

    Args:
      num_classes: of the network.
      labels: a file with a name per line, or one of `BUILT_IN`.
      checkpoint: a file or directory that may have names in it.

    Returns:
      The names (None if there are none) and a few words on where they are from.

    Raises:
      UserError: `labels` cannot be read, or has another number of names.
    """
    if labels:
        names = built_in(labels) if labels in BUILT_IN else read_class_names(labels)
        _check_length(labels, names, num_classes)
        return names, labels
    carried = read_labels(checkpoint) if checkpoint is not None else None
    if carried is not None and len(carried) == num_classes:
        return carried, "the checkpoint"
    for name, size in BUILT_IN.items():
        if size == num_classes:
            return built_in(name), f"{name}, which has {size} classes too"
    return None, "no source, so classes are numbered; give --labels FILE"


def network_classes(
    num_classes: int, *, checkpoint: str | os.PathLike[str], labels: str | None = None
) -> tuple[list[str] | None, str]:
    """The classes of a network's outputs, which labelled videos are matched with.

    As `class_names`, except that what the checkpoint says of itself comes first: `labels` may be
    the label map of the videos, in another order.
    """
    carried = read_labels(checkpoint)
    if carried is not None and len(carried) == num_classes:
        return carried, "the checkpoint"
    names, origin = class_names(num_classes, labels=labels)
    return names, origin if names else "the checkpoint"


def built_in(name: str) -> list[str]:
    """The class names of a data set of `BUILT_IN`."""
    folder = importlib.resources.files("squeezetime_jax") / "data" / "labels"
    return read_class_names(Path(str(folder / f"{name}.txt")))


def _check_length(path: str, names: Sequence[str], num_classes: int) -> None:
    if len(names) != num_classes:
        raise UserError(
            f"{path}: found {len(names)} class names, but the network has {num_classes} classes;"
            " give the label map of its training data"
        )
