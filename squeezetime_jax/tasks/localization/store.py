"""A localiser out of a checkpoint."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.store import find_step, read_meta, restore_module
from squeezetime_jax.tasks.localization.config import TASK, Head, Inference, Window
from squeezetime_jax.tasks.localization.model import Localizer, abstract_localizer


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a localiser's checkpoint holds.

    Attributes:
      model: the network, in evaluation mode.
      labels: class names, without the background.
      inference: from outputs to detections, as it was trained for.
    """

    model: Localizer
    labels: list[str]
    inference: Inference


def load_localizer(path: str | os.PathLike[str]) -> Stored:
    """Read a localiser from a checkpoint directory, a step of it, or a run's working directory.

    Raises:
      CheckpointError: there is none, or it is a network for something else, or damaged.
    """
    step = find_step(path)
    meta = read_meta(step)
    if meta.task != TASK:
        raise CheckpointError(
            f"{path}: holds a network for {meta.task}, wanted one for {TASK}: what `squeezetime"
            " train --config thumos14` writes"
        )
    try:
        kinds = {"window": Window, "head": Head, "inference": Inference}
        parts = {name: kind(**_tuples(meta.settings[name])) for name, kind in kinds.items()}
        model = abstract_localizer(meta.config, parts["window"], parts["head"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{step / 'meta'}: damaged: settings: {error}") from None
    model = restore_module(step, model)
    model.eval()
    labels = meta.labels or [f"class {k}" for k in range(meta.config.num_classes)]
    return Stored(model, labels, parts["inference"])


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, which JSON has, as the tuples that they were."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
