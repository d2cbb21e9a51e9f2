"""The detector: SqueezeTime's backbone, RoIAlign, and a head that scores each box; its weights."""

import math
import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import (
    announce,
    convert,
    from_torch_file,
    to_torch_file,
)
from squeezetime_jax.checkpoint.convert import to_state_dict as _to_state_dict
from squeezetime_jax.checkpoint.kinds import SqueezeTimeKind
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
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.detection.config import NAME

BINS = 8
"""Bins along each side of a box (released configuration)."""

# Boxes up to so many frames long are sampled as densely as the method says; longer ones less so.
_MAX_FRAMES = 4


class Detector(SqueezeTime):
    """Actions of persons, given their boxes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from squeezetime_jax import SqueezeTimeConfig
      >>> from squeezetime_jax.tasks.detection.detector import Detector
      >>> config = SqueezeTimeConfig.tiny(strides=(1, 2, 2, 1), num_classes=81)
      >>> model = Detector(config, nnx.Rngs(0))
      >>> model.eval()
      >>> model(jnp.zeros((2, 4, 64, 64, 3)), jnp.zeros((2, 5, 4))).shape
      (2, 5, 81)

    Args:
      config: of the backbone; `num_classes` counts the action ids from 0, where 0 is no action.
      rngs: source of the initial parameters.

    Raises:
      ValueError: the channels of the last feature map are not a multiple of `num_frames`.
    """

    def __init__(self, config: SqueezeTimeConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        if config.feature_channels % config.num_frames:
            raise ValueError(
                f"the {config.feature_channels} channels of the last feature map must be a multiple"
                f" of the {config.num_frames} frames"
            )
        self.head = RoIHead(config)  # type: ignore[assignment]
        initialise(self.head, rngs)

    def __call__(  # type: ignore[override]
        self,
        clips: Float[Array, "n t h w 3"],
        boxes: Float[Array, "n k 4"],
        rngs: nnx.Rngs | Array | None = None,
    ) -> Float[Array, "n k classes"]:
        """Score actions.

        Args:
          clips: normalised, as for the recogniser.
          boxes: x1, y1, x2, y2 in pixels of the clips.
          rngs: for dropout; used in training only.

        Returns:
          Logits, one sigmoid per action; column 0 has no meaning.
        """
        return self.head(self.features(clips), boxes, rngs)  # type: ignore[call-arg]


class RoIHead(nnx.Module):
    """Mean over time, RoIAlign, dropout, maximum over the box, linear (released code)."""

    def __init__(self, config: SqueezeTimeConfig):
        features = config.feature_channels // config.num_frames
        self.num_frames = config.num_frames
        self.stride = stride_of(config)
        self.dropout = nnx.Dropout(config.dropout)
        self.classifier = Linear(features, config.num_classes, config)
        std = math.sqrt(2 / (features + config.num_classes))  # Xavier
        self.classifier.kernel = normal_param((features, config.num_classes), std, config)
        self.dtype = config.param_dtype

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        boxes: Float[Array, "n k 4"],
        rngs: nnx.Rngs | Array | None = None,
    ) -> Float[Array, "n k classes"]:
        """Logits of boxes."""
        pooled = self.pooled(x, boxes, rngs)
        n, k, features = pooled.shape
        logits = self.classifier(pooled.reshape(n * k, features))
        return logits.reshape(n, k, -1).astype(self.dtype)

    def pooled(
        self,
        x: Float[Array, "n h w c"],
        boxes: Float[Array, "n k 4"],
        rngs: nnx.Rngs | Array | None = None,
    ) -> Float[Array, "n k f"]:
        """The maximum features under each box; f is c over the number of frames."""
        n, h, w, c = x.shape
        # The released view of the channels: index = feature * T + frame.
        maps = jnp.mean(x.reshape(n, h, w, c // self.num_frames, self.num_frames), axis=-1)
        bins = roi_align(maps.astype(self.dtype), boxes, stride=self.stride, bins=BINS)
        # Dropout before the maximum, as released: in training the maxima are up to twice as high.
        return jnp.max(self.dropout(bins, rngs=rngs), axis=(2, 3))


def stride_of(config: SqueezeTimeConfig) -> int:
    """Pixels from one cell of the last feature map to the next."""
    return 4 * math.prod(config.strides)


def abstract_detector(config: SqueezeTimeConfig) -> Detector:
    """The detector with `jax.ShapeDtypeStruct` in the place of arrays."""
    return nnx.eval_shape(lambda: Detector(config, nnx.Rngs(0)))


def roi_align(
    features: Float[Array, "n h w c"],
    boxes: Float[Array, "n k 4"],
    *,
    stride: int,
    bins: int = BINS,
) -> Float[Array, "n k bins bins c"]:
    """Pool the features under boxes into bins (RoIAlign, arXiv 1703.06870).

    A bin is the mean over a grid of bilinear samples, and both the grid and the interpolation are
    products of one factor down and one across; so the bins of a box are `rows @ map @ columns.T`,
    two batched matrix products. The sampling is adaptive (as many samples along a bin as it is
    pixels long, rounded up) and aligned (a pixel's centre is at a half), as released.

    Args:
      features: maps.
      boxes: x1, y1, x2, y2 in pixels of the frames behind the maps; they receive no gradient.
      stride: pixels from one cell of a map to the next.
      bins: along each side of a box.

    Returns:
      The mean feature of each bin; 0 for a box without width or height. Samples more than a cell
      outside the map count as 0.
    """
    boxes = jax.lax.stop_gradient(boxes).astype(features.dtype)
    height, width = features.shape[1:3]
    rows = _bin_weights(boxes[..., 1], boxes[..., 3], stride, bins, height)
    columns = _bin_weights(boxes[..., 0], boxes[..., 2], stride, bins, width)
    across = jnp.einsum("nkqw,nhwc->nkhqc", columns, features, precision="highest")
    return jnp.einsum("nkph,nkhqc->nkpqc", rows, across, precision="highest")


def _bin_weights(
    low: Float[Array, "n k"], high: Float[Array, "n k"], stride: int, bins: int, size: int
) -> Float[Array, "n k bins size"]:
    """The weight of each cell of the map in each bin, along one axis."""
    max_samples = _MAX_FRAMES * -(-size // bins)
    start, end = low / stride - 0.5, high / stride - 0.5
    step = (end - start) / bins
    count = jnp.clip(jnp.ceil(step), 0, max_samples)
    sample = jnp.arange(max_samples, dtype=low.dtype)
    within = (sample + 0.5) / jnp.maximum(count, 1)[..., None]  # as a share of the bin
    bin_start = start[..., None] + jnp.arange(bins, dtype=low.dtype) * step[..., None]
    place = bin_start[..., None] + within[..., None, :] * step[..., None, None]
    counts = (sample < count[..., None])[..., None, :] & (place >= -1) & (place <= size)
    place = jnp.clip(place, 0, size - 1)
    near = jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(size, dtype=low.dtype)))
    total = jnp.sum(jnp.where(counts[..., None], near, 0), axis=-2)
    return total / jnp.maximum(count, 1)[..., None, None]


DETECTOR = SqueezeTimeKind(Detector, DETECTOR_HEAD)
"""How the authors' files name a detector's weights."""


def load_detector(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> Detector:
    """Load a detector, its configuration read from the file.

    Args:
      path: a `.pth` of a detector or a recogniser by the authors; or a checkpoint directory of
        either, a step of it, or a run's working directory.
      allow: regular expressions, searched for in names; a missing, unexpected or mismatched entry
        is accepted where one matches.
      **changes: fields of `SqueezeTimeConfig` to change; from a recogniser, at least `num_classes`
        and `strides` have to. What is adapted is logged in one line.

    Returns:
      The detector, in evaluation mode.

    Raises:
      CheckpointError: the path is not a checkpoint, or an entry of it is not accounted for.
    """
    model, report = load_with_report(path, allow=allow, **changes)
    announce(report)
    return model


def load_with_report(
    path: str | os.PathLike[str], *, allow: str | Iterable[str] = (), **changes: Any
) -> tuple[Detector, Report]:
    """As `load_detector`, with a report on every entry; nothing is logged."""
    if not epath.Path(path).is_dir():
        return from_torch_file(path, kind=DETECTOR, allow=allow, **changes)
    meta = read_meta(path)
    if meta.task == RECOGNITION:
        recogniser = load_model(path)
        tensors, config = _to_state_dict(recogniser), recogniser.config
    elif meta.task == NAME:
        detector = restore_module(path, abstract_detector(meta.config))
        detector.eval()
        tensors, config = to_state_dict(detector), detector.config
    else:
        raise CheckpointError(f"{path}: expected a network for {NAME}, got one for {meta.task}")
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
    return _to_state_dict(model, kind=DETECTOR)


def write_torch_file(
    path: str | os.PathLike[str], model: Detector, *, labels: list[str] | None = None
) -> None:
    """Write the detector as a `.pth` with the released names.

    Raises:
      CheckpointError: the file cannot be written.
    """
    to_torch_file(path, model, labels=labels, kind=DETECTOR)


def holds_detector(path: str | os.PathLike[str]) -> bool:
    """Whether a file or a checkpoint directory holds a detector.

    Raises:
      CheckpointError: it is neither.
    """
    if epath.Path(path).is_dir():
        return read_meta(path).task == NAME
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
      source: any path that `load_detector` takes.
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
        save_model(target, model, labels=labels, task=NAME)
    return report
