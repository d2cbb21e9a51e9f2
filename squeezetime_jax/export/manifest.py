"""What stands beside an exported file: how a clip enters it, and what comes out.

An export `k400.tflite` has its manifest in `k400.tflite.json`. Every format takes the same input,
one 4-D array (batch, height, width, 3 * frames) named `clip`, whose channels are the frames' pixels
side by side: channel = 3 * frame + colour.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data.augment import MEAN, STD
from squeezetime_jax.errors import UserError

Clips = UInt8[np.ndarray, "n t h w 3"]
"""RGB, 0..255."""

INPUT, OUTPUT = "clip", "logits"
LAYOUT = "batch, height, width, channel; channel = 3 * frame + colour (red, green, blue)"
_SIZES = ("num_frames", "height", "width", "num_classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """How to use an exported file.

    Attributes:
      format: name of the file's format.
      dtype: type that the file computes in; logits are float32 in any case.
      uint8: whether clips enter as 0..255 and are normalised inside; otherwise they enter
        normalised, as float32.
      batch: number of clips in one call; None: any number.
      num_frames: frames of a clip.
      height: of the clip, in pixels.
      width: of the clip, in pixels.
      num_classes: of the logits.
      short_side: the frames' shorter side before the centre crop of `height` x `width`.
      frame_interval: distance between a clip's frames; None spreads them over the video.
      fps: clips are taken in time, as if the video had so many frames per second; None: its frames
        are counted.
      labels: class names in the order of the logits, if known.
      mean: of red, green and blue, in 0..255.
      std: their standard deviations.
      network: the fields of the network's configuration.
      version: of this package, when it wrote the file.

    Raises:
      ValueError: a size is not a positive integer, or there is not one label for each class.
    """

    format: str
    dtype: str
    uint8: bool
    batch: int | None
    num_frames: int
    height: int
    width: int
    num_classes: int
    short_side: int | None = None
    frame_interval: int | None = None
    fps: float | None = None
    labels: list[str] | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.labels is not None and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a clip as it enters: height, width, 3 * frames."""
        return self.height, self.width, 3 * self.num_frames

    def pack(self, clips: Clips) -> UInt8[np.ndarray, "n h w 3*t"] | Float[np.ndarray, "n h w 3*t"]:
        """Clips in the form that the file takes."""
        n, t, h, w, colours = clips.shape
        pixels = clips.transpose(0, 2, 3, 1, 4)
        if not self.uint8:
            scale = 1 / np.asarray(self.std, np.float32)
            pixels = (pixels.astype(np.float32) - np.asarray(self.mean, np.float32)) * scale
        return np.ascontiguousarray(pixels.reshape(n, h, w, t * colours))

    def to_json(self) -> dict[str, Any]:
        """As the file holds it, with input and output spelled out for readers."""
        batch = self.batch or "any"
        return {
            **dataclasses.asdict(self),
            "input": {
                "name": INPUT,
                "dtype": "uint8" if self.uint8 else "float32",
                "shape": [batch, *self.shape],
                "layout": LAYOUT,
                "values": "0..255" if self.uint8 else "(0..255 - mean) / std, per colour",
            },
            "output": {
                "name": OUTPUT,
                "dtype": "float32",
                "shape": [batch, self.num_classes],
                "values": "logits; their softmax are probabilities",
            },
        }


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Where the manifest of an exported file is."""
    return Path(f"{os.fspath(path)}.json")


def write_manifest(path: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write the manifest of an exported file."""
    manifest_path(path).write_text(json.dumps(manifest.to_json(), indent=1) + "\n")


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an exported file.

    Raises:
      UserError: it is missing or damaged.
    """
    file = manifest_path(path)
    names = {field.name for field in dataclasses.fields(Manifest)}
    try:
        found = json.loads(file.read_text())
        found |= {name: tuple(found[name]) for name in ("mean", "std")}
        return Manifest(**{name: found[name] for name in names & set(found)})
    except FileNotFoundError:
        raise UserError(
            f"{file}: file not found; `squeezetime export` writes it beside the network"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error!r}); export the network again") from None
