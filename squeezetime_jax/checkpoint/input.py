"""What a checkpoint's network expects of its input, so that prediction follows training."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.mindspore_file import is_mindspore_file
from squeezetime_jax.checkpoint.torch_file import TorchFile
from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.peers.entry import Input
from squeezetime_jax.peers.registry import entry_of

INPUT = "squeezetime_jax_input"
"""Key of the input in the `meta` of a `.pth` file that we wrote."""


def input_of(model: Any) -> Input:
    """What a network expects of its input: what `load` found, else the published protocol."""
    return getattr(model, "input", None) or entry_of(model).input


def input_from_json(fields: Mapping[str, Any] | None) -> Input | None:
    """What was written as JSON.

    Raises:
      TypeError: there is an unknown field.
    """
    if fields is None:
        return None
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Input(**{"fps": None, **values})  # earlier versions did not write it


def input_of_file(path: str | os.PathLike[str]) -> Input | None:
    """What a `.pth` file that we wrote says of its input; None for other files.

    Raises:
      CheckpointError: the file cannot be read.
    """
    if is_mindspore_file(path):
        return None
    with TorchFile(path) as file:
        meta = file.contents.get("meta") if isinstance(file.contents, dict) else None
    try:
        return input_from_json(meta.get(INPUT) if isinstance(meta, dict) else None)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its meta is damaged: {error}") from None


def find_input(path: str | os.PathLike[str], config: NetworkConfig) -> Input:
    """What the network of a checkpoint expects where the checkpoint itself does not say it.

    The configuration of the training run that the checkpoint is in; otherwise the published
    protocol of the network, for SqueezeTime with 51 classes that of HMDB51.

    Args:
      path: a file, a checkpoint directory, a step of it, or a run's working directory.
      config: the network's configuration.

    Raises:
      CheckpointError: the run's configuration is damaged.
    """
    published = entry_of(config).input
    place = epath.Path(path)
    for folder in (place, *list(place.parents)[:2]):
        file = folder / "config.json"
        if file.exists():
            try:
                return _input_of_run(json.loads(file.read_text()), published)
            except (OSError, ValueError, KeyError, TypeError) as error:
                if place.is_dir():
                    raise CheckpointError(
                        f"{file}: damaged ({error}); expected the config of a training run"
                    ) from None
                # Beside a file of weights it may be the config of something else.
    if published == entry_of("squeezetime").input and config.num_classes == 51:
        return dataclasses.replace(published, short_side=286, crop_side=286, num_clips=2)
    return published


def _input_of_run(fields: Mapping[str, Any], published: Input) -> Input:
    """The test protocol of a run, given its config."""
    evaluation, interval = fields["evaluation"], int(fields["data"]["frame_interval"])
    fps = float(fields["data"].get("target_fps", 0.0)) or None
    return dataclasses.replace(
        published,
        sampling="interval" if interval else "segments",
        frame_interval=interval or 1,
        fps=fps,
        in_time=bool(fps),
        short_side=int(evaluation["short_side"]),
        crop_side=int(evaluation["crop_size"]),
        num_crops=int(evaluation["num_crops"]),
        num_clips=int(evaluation.get("num_clips", 1)),
        test_frames=int(evaluation.get("num_frames", 0)) or None,
    )
