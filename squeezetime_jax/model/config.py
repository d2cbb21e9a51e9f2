"""Configurations: what every network has, and every variant of SqueezeTime."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

# Blocks per stage (released code).  From 50 layers on the blocks are bottlenecks.
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

# Channels between the convolutions of IOI's long branch: the paper's T, fixed at 16 in the
# released code for every number of frames.
LONG_CHANNELS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What the configuration of every network holds.

    Attributes:
      name: the network's name in the register (`squeezetime_jax.peers.registry`).
      num_frames: frames of a clip.
      num_classes: outputs of the classifier.
      dropout: probability of dropping a pooled feature, in training.
      bn_group_size: clips that batch norm takes its statistics over; a larger batch is cut into
        groups of this size, a smaller one is one group. None: always the whole batch.
      dtype: what the network computes in. Parameters and batch statistics stay in float32.

    Raises:
      ValueError: a field has an invalid value.
    """

    name: str
    num_frames: int
    num_classes: int = 400
    dropout: float = 0.5
    bn_group_size: int | None = 64
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"

    def __post_init__(self) -> None:
        # A configuration is hashable, so lists become tuples.
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, as_tuple(getattr(self, field.name)))
        for name, is_valid, expected in self._checks():
            if not is_valid:
                raise ValueError(
                    f"{type(self).__name__}.{name} must be {expected}, got {getattr(self, name)!r}"
                )

    def _checks(self) -> list[tuple[str, bool, str]]:
        """For each field with limits: its name, whether it keeps to them, and what they are."""
        return [
            _choice(self, "dtype", "float32", "bfloat16", "float64"),
            ("num_frames", self.num_frames >= 1, "at least 1"),
            ("num_classes", self.num_classes >= 1, "at least 1"),
            ("dropout", 0 <= self.dropout < 1, "in [0, 1)"),
            ("bn_group_size", self.bn_group_size is None or self.bn_group_size >= 1, "at least 1"),
        ]

    @property
    def compute_dtype(self) -> np.dtype:
        """`dtype` as NumPy knows it."""
        return np.dtype(getattr(jnp, self.dtype))

    @property
    def param_dtype(self) -> np.dtype:
        """Type of parameters and batch statistics: float32, or float64 if `dtype` is."""
        return np.dtype(np.float64 if self.dtype == "float64" else np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeTimeConfig(NetworkConfig):
    """Every variant of SqueezeTime. The fields that all networks have are in `NetworkConfig`.

    Attributes:
      depth: layers; one of 10, 18, 34 (basic blocks), 50, 101, 152, 200 (bottlenecks).
      width: factor on the channels of every stage (paper, Table 5).
      num_frames: frames of a clip, T (paper, Table 4).
      position_grids: side length of the learned position encoding in each stage, in pixels of the
        stage's feature map.
      strides: stride of each stage; detection uses (1, 2, 2, 1).
      pooling: how the temporal focus weights see space: "average" (released code) or "max"
        (paper, Section 3.2).
      branches: what stands in a block's middle: "both" (the channel-time learning module, Eq. 3),
        "tfc" or "ioi" (one of its branches, Table 1), or "conv3x3" (a plain convolution, Table 1).
      temporal_focus: whether the temporal focus convolutions are weighted at all (Tables 2 and 3).
      position_encoding: whether IOI adds its position encoding (Table 2).
      gate_init: how the last kernel of the weight computation starts: "released" (He-normal), or
        "zero": every weight is 0.5 at first, which trains better from scratch.

    Raises:
      ValueError: a field has an invalid value.
    """

    name: str = "squeezetime"
    num_frames: int = 16
    depth: int = 50
    width: float = 1.0
    position_grids: tuple[int, int, int, int] = (56, 28, 14, 7)
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    pooling: Literal["average", "max"] = "average"
    branches: Literal["both", "tfc", "ioi", "conv3x3"] = "both"
    temporal_focus: bool = True
    position_encoding: bool = True
    gate_init: Literal["released", "zero"] = "released"

    def _checks(self) -> list[tuple[str, bool, str]]:
        return [
            *super()._checks(),
            _choice(self, "name", "squeezetime"),
            _choice(self, "depth", *BLOCKS),
            _choice(self, "pooling", "average", "max"),
            _choice(self, "branches", "both", "tfc", "ioi", "conv3x3"),
            _choice(self, "gate_init", "released", "zero"),
            ("width", self.width > 0 and self.planes[0] >= 1, "at least 1/64"),
            ("strides", _are_four(self.strides, (1, 2)), "four strides of 1 or 2"),
            ("position_grids", _are_four(self.position_grids), "four side lengths of at least 1"),
        ]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks in each of the four stages."""
        return BLOCKS[self.depth]

    @property
    def is_bottleneck(self) -> bool:
        """Whether the blocks are bottlenecks (expansion 4) or basic (expansion 1)."""
        return self.depth >= 50

    @property
    def expansion(self) -> int:
        """Channels that leave a block, over the channels inside it."""
        return 4 if self.is_bottleneck else 1

    @property
    def planes(self) -> tuple[int, ...]:
        """Channels inside the blocks of each stage."""
        return tuple(int(base * self.width) for base in (64, 128, 256, 512))

    @property
    def feature_channels(self) -> int:
        """Channels of the last feature map."""
        return self.planes[-1] * self.expansion

    # The published networks.

    @classmethod
    def k400(cls, **changes: object) -> "SqueezeTimeConfig":
        """Kinetics-400: 71.64 % top-1 with the released weights (10 clips x 3 crops)."""
        return cls(**{"num_classes": 400, **changes})  # type: ignore[arg-type]

    @classmethod
    def k600(cls, **changes: object) -> "SqueezeTimeConfig":
        """Kinetics-600: 76.06 % top-1 with the released weights (10 clips x 3 crops)."""
        return cls(**{"num_classes": 600, **changes})  # type: ignore[arg-type]

    @classmethod
    def hmdb51(cls, **changes: object) -> "SqueezeTimeConfig":
        """HMDB51: 65.56 % top-1 with the released weights (2 clips x 3 crops)."""
        return cls(**{"num_classes": 51, **changes})  # type: ignore[arg-type]

    @classmethod
    def ava21(cls, **changes: object) -> "SqueezeTimeConfig":
        """The backbone of the AVA 2.1 detector, whose last stage keeps its resolution."""
        return cls(**{"num_classes": 81, "strides": (1, 2, 2, 1), **changes})  # type: ignore[arg-type]

    @classmethod
    def tiny(cls, **changes: object) -> "SqueezeTimeConfig":
        """A network for tests: 10 layers, an eighth of the width, 4 frames, 8 classes."""
        tiny = {"depth": 10, "width": 0.125, "num_frames": 4, "num_classes": 8}
        return cls(**{**tiny, **changes})  # type: ignore[arg-type]


def _are_four(values: tuple[int, ...], options: tuple[int, ...] | None = None) -> bool:
    return len(values) == 4 and all(
        isinstance(v, int) and (v in options if options else v >= 1) for v in values
    )


def _choice(config: NetworkConfig, name: str, *options: object) -> tuple[str, bool, str]:
    return name, getattr(config, name) in options, f"one of {', '.join(map(repr, options))}"


def as_tuple(value: Any) -> Any:
    """A value with every list in it, as JSON has them, turned into a tuple."""
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value
