"""What stands beside an exported file: how a clip enters it, and what comes out.

An export `k400.tflite` has its manifest in `k400.tflite.json`. Every format takes the same input,
one 4-D array (batch, height, width, 3 * frames) named `clip`, whose channels are the frames' pixels
side by side: channel = 3 * frame + colour. (Inside, the network counts colour * T + frame; the rows
of the stem's kernel are put in the other order when it is exported.)
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.data.augment import MEAN, STD
from squeezetime_jax.errors import UserError

Format = Literal["stablehlo", "onnx", "litert", "openvino"]
Dtype = Literal["float32", "float16", "bfloat16", "int8"]

INPUT, OUTPUT = "clip", "logits"
LAYOUT = "batch, height, width, channel; channel = 3 * frame + colour (red, green, blue)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """How to use an exported file.

    Attributes:
      format: what opens it.
      dtype: what it computes in; clips and logits are float32 whatever this is.
      uint8: whether clips enter as 0..255, and are normalised inside; otherwise they enter
        normalised, as float32.
      batch: clips that one call takes; None: any number.
      num_frames: frames of a clip, T.
      height: of the clip, in pixels.
      width: of the clip, in pixels.
      num_classes: of the logits.
      short_side: the frames' shorter side before the centre crop of `height` x `width`.
      frame_interval: distance between a clip's frames; None spreads them over the video.
      labels: class names in the order of the logits, if known.
      mean: of red, green and blue, in 0..255.
      std: their standard deviations.
      network: the fields of the network's `SqueezeTimeConfig`.
      version: of this package, that wrote the file.
    """

    format: Format
    dtype: Dtype
    uint8: bool
    batch: int | None
    num_frames: int
    height: int
    width: int
    num_classes: int
    short_side: int | None = None
    frame_interval: int | None = None
    labels: list[str] | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: str = ""

    def pack(
        self, clips: UInt8[np.ndarray, "n t h w 3"]
    ) -> UInt8[np.ndarray, "n h w 3*t"] | Float[np.ndarray, "n h w 3*t"]:
        """Clips as the file takes them.

        Args:
          clips: RGB, 0..255.
        """
        n, t, h, w, colours = clips.shape
        side_by_side = clips.transpose(0, 2, 3, 1, 4).reshape(n, h, w, t * colours)
        if self.uint8:
            return np.ascontiguousarray(side_by_side)
        scale = 1 / np.asarray(self.std, np.float32)
        pixels = side_by_side.reshape(n, h, w, t, colours).astype(np.float32)
        normalised = (pixels - np.asarray(self.mean, np.float32)) * scale
        return normalised.reshape(n, h, w, t * colours)

    def to_json(self) -> dict[str, Any]:
        """As the file holds it, with input and output spelled out for readers."""
        batch = self.batch or "any"
        return {
            **dataclasses.asdict(self),
            "input": {
                "name": INPUT,
                "dtype": "uint8" if self.uint8 else "float32",
                "shape": [batch, self.height, self.width, 3 * self.num_frames],
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
    """Put a manifest beside an exported file."""
    manifest_path(path).write_text(json.dumps(manifest.to_json(), indent=1) + "\n")


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an exported file.

    Raises:
      UserError: it is not there, or damaged.
    """
    file = manifest_path(path)
    names = {field.name for field in dataclasses.fields(Manifest)}
    try:
        found = json.loads(file.read_text())
        found |= {name: tuple(found[name]) for name in ("mean", "std")}
        manifest = Manifest(**{name: found[name] for name in names})
        _check(manifest)
        return manifest
    except FileNotFoundError:
        raise UserError(
            f"{file}: found no such file; wanted what `squeezetime export` wrote beside the network"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged: {error!r}; export the network again") from None


def _check(manifest: Manifest) -> None:
    sizes = ("num_frames", "height", "width", "num_classes")
    for name in sizes:
        value = getattr(manifest, name)
        if not isinstance(value, int) or not 1 <= value <= 1_000_000:
            raise ValueError(f"{name} is {value!r}")
    if manifest.labels is not None and len(manifest.labels) != manifest.num_classes:
        raise ValueError(f"{len(manifest.labels)} labels for {manifest.num_classes} classes")
