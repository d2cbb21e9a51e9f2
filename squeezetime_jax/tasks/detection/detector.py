"""The detector: SqueezeTime's backbone, and a head that looks under boxes."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.layers import Linear, initialise, normal_param
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.detection.roi_align import roi_align

BINS = 8  # along each side of a box (released config)


class Detector(SqueezeTime):
    """Actions of persons, given their boxes.

    Example:
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
      config: which backbone; `num_classes` counts the actions' ids from 0, where 0 is no action.
      rngs: where the initial parameters come from.

    Raises:
      ValueError: the last feature map's channels cannot be seen as `num_frames` moments.
    """

    def __init__(self, config: SqueezeTimeConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        if config.feature_channels % config.num_frames:
            raise ValueError(
                f"{config.feature_channels} channels are no multiple of {config.num_frames} frames"
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
          clips: as for the recogniser.
          boxes: x1, y1, x2, y2 in pixels of the clips.
          rngs: what dropout draws from; used in training only.

        Returns:
          Logits, each action's for itself; column 0 means nothing.
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
        """The strongest features under each box; f is c over the number of frames."""
        n, h, w, c = x.shape
        # The released view of the channels: index = feature * T + moment.
        maps = jnp.mean(x.reshape(n, h, w, c // self.num_frames, self.num_frames), axis=-1)
        bins = roi_align(maps.astype(self.dtype), boxes, stride=self.stride, bins=BINS)
        # Dropout before the maximum, as released: in training the maxima are up to twice as high.
        return jnp.max(self.dropout(bins, rngs=rngs), axis=(2, 3))


def stride_of(config: SqueezeTimeConfig) -> int:
    """Pixels from one cell of the last feature map to the next."""
    return 4 * math.prod(config.strides)


def scores(logits: Float[Array, "*n classes"]) -> Float[Array, "*n classes"]:
    """Each action's probability by itself."""
    return jax.nn.sigmoid(logits)


def abstract_detector(config: SqueezeTimeConfig) -> Detector:
    """The detector with `jax.ShapeDtypeStruct` in the place of arrays."""
    return nnx.eval_shape(lambda: Detector(config, nnx.Rngs(0)))
