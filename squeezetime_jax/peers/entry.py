"""What the register says of a network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import nnx

from squeezetime_jax.model.config import NetworkConfig
from squeezetime_jax.peers.published import PUBLISHED, Published

# Normalisation of pixel values 0..255: (mean, standard deviation) of red, green and blue.
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
HALF = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
GREY = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a network expects of its input: its published training and test protocol.

    A clip has `config.num_frames` frames. Each view (a clip and a crop) is scored by itself; a
    video's score is the mean of its views' softmax.

    Attributes:
      sampling: "interval", frames at a constant distance; or "segments", one frame from the middle
        of each of `config.num_frames` equal parts of the video.
      frame_interval: distance of neighbouring frames in source frames; 1 for segments.
      fps: frames per second of the videos that it was trained on (Kinetics: about 30); None if that
        is unknown. Predictions and streams take their clips in time at this rate, so that a clip of
        a video of any rate spans the time that a training clip did.
      in_time: whether it was trained and tested with clips in time, at `fps`; otherwise with source
        frames, whatever their rate.
      short_side: test frames are resized so that their shorter side is this, in pixels.
      crop_side: side of the test crop, in pixels.
      train_side: side of the training crop, in pixels.
      num_crops: crops of a test clip: 1 (centre), 3 (along the longer side) or 10 (corners and
        centre, each also mirrored).
      num_clips: clips of a test video, evenly spread.
      test_frames: frames of a test clip, where they are not `config.num_frames`.
      mean: subtracted from red, green and blue (0..255).
      std: what is left is divided by this.
    """

    sampling: Literal["interval", "segments"] = "interval"
    frame_interval: int = 1
    fps: float | None = 30.0
    in_time: bool = False
    short_side: int = 256
    crop_side: int = 256
    train_side: int = 224
    num_crops: int = 3
    num_clips: int = 10
    test_frames: int | None = None
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]


def square(side: int, frame_interval: int, pixels: Any = IMAGENET, **views: Any) -> Input:
    """An input whose crops are as large as the frames' shorter side; `pixels`: mean and std."""
    sides = {"short_side": side, "crop_side": side, "train_side": side, **views}
    return Input(frame_interval=frame_interval, mean=pixels[0], std=pixels[1], **sides)


class Released(NamedTuple):
    """A module of a released state dict.

    Attributes:
      name: its dotted name in PyTorch.
      path: the dotted path of our module.
      kind: which parameters it has and how their axes are ordered; one of the keys of
        `squeezetime_jax.peers.released.PARAMETERS`.
      constant: the value of its entry that we do not keep, where that is not 0.
    """

    name: str
    path: str
    kind: str
    constant: np.ndarray | None = None


Table = tuple[tuple[str, ...], ...]


def table(text: str) -> Table:
    """Names of modules in several spellings, a row a line.

    The first row begins with what comes before every path; a "-", and for each spelling what comes
    before every name, follow. Fields in braces stand for the number of a stage or block; "-" is for
    nothing. Each further row is a module's path, its kind, and its name in each spelling; "-" where
    another row has it.
    """
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


def spelled(rows: Table, column: int, **places: int | str) -> Iterator[Released]:
    """The modules of a table in one spelling; `places` are what stands for fields in braces."""
    (start, _, *starts), *modules = rows
    before = ["" if part == "-" else part for part in (starts[column], start)]
    for path, kind, *names in modules:
        if names[column] != "-":
            name, path = (a + b for a, b in zip(before, (names[column], path), strict=True))
            yield Released(name.format(**places), path.format(**places), kind)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network of the register.

    Attributes:
      title: its name in prose.
      year: of its publication.
      idea: what is new in it, in a line.
      config: its configuration as published.
      build: makes the module: `build(config, rngs)`.
      input: what it expects of its input.
      released: for a configuration, the modules of its state dict in PyTorch's order; one function
        for each spelling that public files have, the first is the one that is written. Empty for
        SqueezeTime, whose table is in `checkpoint/`.
    """

    title: str
    year: int
    idea: str
    config: NetworkConfig
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    input: Input
    released: tuple[Callable[[Any], Iterator[Released]], ...] = ()

    @property
    def name(self) -> str:
        """What it is called on the command line, in configurations and in checkpoints."""
        return self.config.name

    @property
    def published(self) -> Published:
        """Its figures."""
        return PUBLISHED[self.name]
