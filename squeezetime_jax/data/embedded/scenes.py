"""Scenes of textured shapes over a textured background: drawn, made into frames, written as videos.

Everything a shape can do lives on a circle: its place across and down (it leaves on one side and
comes back on the other), the log of its size (having outgrown the largest size it starts again as
the smallest) and its angle. The background tiles the plane and moves on the same torus.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from squeezetime_jax.files import whole

X, Y, SIZE, ANGLE = range(4)
"""The phases of a shape, each in turns of its circle."""

FRAMES_PER_SECOND = 25
_RADIUS = (0.16, 0.42)  # smallest and largest, as a share of the frame's side
_TEXTURE = 48  # side of a shape's own texture, in texels
_FINER = 2  # texels of the background per pixel, so that it moves by half pixels
_QUANTISER = 24  # x264's


@dataclasses.dataclass(frozen=True)
class Shape:
    """One moving thing.

    Attributes:
      image: colour and coverage on the square `[-1, 1]^2` around the shape's middle, values 0..255.
      phase: place across, place down, log-size and angle at mid-video, in turns.
      rate: how far each phase goes in one video, in turns.
      arc: length of the half circle that the place runs through besides, in frame sides; it starts
        to the right, and turns clockwise where positive.
    """

    image: UInt8[np.ndarray, "s s 4"]
    phase: Float32[np.ndarray, "4"]
    rate: Float32[np.ndarray, "4"]
    arc: float = 0.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """All that a video shows.

    Attributes:
      background: a texture that tiles the plane, values 0..255.
      phase: the background's place across and down at mid-video, in turns (frame sides).
      rate: how far the background goes in one video, in turns.
      shapes: from back to front.
      noise: standard deviation of the pixel noise, in grey levels.
      noise_seed: seed of the pixel noise.
    """

    background: UInt8[np.ndarray, "s s 3"]
    phase: Float32[np.ndarray, "2"]
    rate: Float32[np.ndarray, "2"]
    shapes: tuple[Shape, ...]
    noise: float
    noise_seed: int


def reverse(scene: Scene) -> Scene:
    """The scene whose frames are the given scene's in reversed order (the pixel noise apart)."""
    shapes = tuple(
        dataclasses.replace(shape, rate=-shape.rate, arc=-shape.arc) for shape in scene.shapes
    )
    return dataclasses.replace(scene, rate=-scene.rate, shapes=shapes)


def draw_background(
    rng: np.random.Generator, size: int, difficulty: float
) -> tuple[UInt8[np.ndarray, "s s 3"], Float[np.ndarray, "3"]]:
    """Draw a texture that tiles the plane, for `Scene.background`, and its mean colour."""
    colour = rng.uniform(40, 120, 3)
    contrast = 12 + 30 * difficulty
    return _texture(rng, _FINER * size, 6, colour, contrast), colour


def draw_image(
    rng: np.random.Generator, background_colour: np.ndarray, difficulty: float
) -> UInt8[np.ndarray, "s s 4"]:
    """Draw a shape's picture: a polygon, textured, brighter than what is behind it.

    Args:
      rng: the scene's own generator.
      background_colour: RGB, about what is behind it.
      difficulty: 0 to 1: how little brighter.
    """
    colour = background_colour + (1 - 0.7 * difficulty) * rng.uniform(60, 140, 3)
    return np.dstack([_texture(rng, _TEXTURE, 4, colour, 40.0), _outline(rng)])


def render(scene: Scene, *, size: int, num_frames: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Draw the frames of a scene.

    Args:
      scene: what to show.
      size: side of the frame, in pixels.
      num_frames: number of frames of the video.

    Returns:
      RGB frames.
    """
    times = (np.arange(num_frames, dtype=np.float32) - (num_frames - 1) / 2) / num_frames
    paths = [
        shape.phase + shape.rate * times[:, None] + _along_arc(shape.arc, times)
        for shape in scene.shapes
    ]
    return paint_scene(scene, scene.phase + scene.rate * times[:, None], paths, size=size)


def paint_scene(
    scene: Scene,
    background_path: Float32[np.ndarray, "t 2"],
    paths: Sequence[Float32[np.ndarray, "t 4"]],
    *,
    size: int,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Draw the frames of a scene whose parts go their own ways.

    Args:
      scene: what to show; its own phases and rates are not looked at.
      background_path: the background's place in each frame, in turns.
      paths: the phases of each shape in each frame, in turns.
      size: side of the frame, in pixels.

    Returns:
      RGB frames.
    """
    frames = background_frames(scene.background, background_path, size)
    for shape, path in zip(scene.shapes, paths, strict=True):
        _paint(frames, shape.image, path % 1.0)
    rng = np.random.default_rng(scene.noise_seed)
    noise = rng.standard_normal((len(frames), size, size, 1), np.float32)
    frames += np.float32(scene.noise) * noise
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def background_frames(
    background: UInt8[np.ndarray, "s s 3"], path: Float32[np.ndarray, "t 2"], size: int
) -> Float32[np.ndarray, "t h w 3"]:
    """The background alone, at the place of each frame, in turns."""
    step = background.shape[0] // size
    tiles = np.tile(background, (2, 2, 1))
    corners = -path % 1.0 * (step * size)
    frames = np.empty((len(path), size, size, 3), np.float32)
    for frame, (x, y) in zip(frames, corners.astype(int), strict=True):
        frame[:] = tiles[y : y + step * size : step, x : x + step * size : step]
    return frames


def paint(
    frames: Float32[np.ndarray, "t h w 3"],
    image: UInt8[np.ndarray, "s s 4"],
    x: Float[np.ndarray, "t"],
    y: Float[np.ndarray, "t"],
    radius: Float[np.ndarray, "t"],
    angle: Float[np.ndarray, "t"],
) -> None:
    """Lay an image over all frames, in place, on the torus that the frame's borders make.

    Args:
      frames: square RGB frames, 0..255.
      image: colour and coverage, as `Shape.image`.
      x: of the image's middle in each frame, in pixels.
      y: likewise.
      radius: half of the image's side in each frame, in pixels.
      angle: of the image, in turns.
    """
    size = frames.shape[1]
    reach = math.ceil(radius.max()) + 1
    side = 2 * reach + 2
    left, top = np.floor(x).astype(int) - reach, np.floor(y).astype(int) - reach
    # From a pixel of the patch to a texel: turn and scale about the shape's middle.
    turn = (_TEXTURE / 2) / radius * np.exp(2j * np.pi * angle)
    shift = (1 + 1j) * (_TEXTURE - 1) / 2 - turn.conj() * ((x - left) + 1j * (y - top))
    patches = np.empty((len(x), side, side, 4), np.float32)
    for patch, t, d in zip(patches, turn, shift, strict=True):
        move = np.array([[t.real, t.imag, d.real], [-t.imag, t.real, d.imag]], np.float32)
        patch[:] = cv2.warpAffine(
            image, move, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
    rows = (top[:, None] + np.arange(side)) % size + size * np.arange(len(x))[:, None]
    columns = (left[:, None] + np.arange(side)) % size
    pixels, where = frames.reshape(-1, 3), rows[:, :, None] * size + columns[:, None, :]
    under = pixels.take(where, axis=0)
    coverage = patches[..., 3:] / 255
    pixels[where] = under + coverage * (patches[..., :3] - under)


def encode(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: int = FRAMES_PER_SECOND,
) -> None:
    """Write frames as H.264 in mp4, every frame by itself and at the same quantiser.

    Args:
      path: the file to write, of any name, whole or not at all.
      frames: RGB, even height and width.
      fps: frames per second.

    Raises:
      UserError: the file cannot be written.
    """
    # The preset that is decoded fastest: every epoch decodes, and files this small may be larger.
    options = {"preset": "ultrafast", "qp": str(_QUANTISER), "x264-params": "keyint=1"}
    with whole(Path(path)) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_type = "NONE"  # frames this small cost more to hand over than to code
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _texture(
    rng: np.random.Generator, size: int, cells: int, colour: np.ndarray, contrast: float
) -> UInt8[np.ndarray, "s s 3"]:
    """Smooth random blobs around a colour, tiling the plane."""
    coarse = rng.standard_normal((cells, cells, 3)).astype(np.float32)
    # Two more cells on each side, so that interpolation sees across the seam.
    padded = np.pad(coarse, ((2, 2), (2, 2), (0, 0)), "wrap")
    side = round(size * (cells + 4) / cells)
    smooth = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    start = (side - size) // 2
    inside = smooth[start : start + size, start : start + size]
    return np.clip(colour + contrast * inside, 0, 255).astype(np.uint8)


def _outline(rng: np.random.Generator) -> UInt8[np.ndarray, "s s"]:
    """Coverage of a random polygon inside the unit circle."""
    corners = int(rng.integers(3, 7))
    angles = 2 * math.pi / corners * (np.arange(corners) + rng.uniform(0, 0.7, corners))
    radii = rng.uniform(0.6, 1.0, corners)
    middle = (_TEXTURE - 1) / 2
    points = middle * (1 + 0.95 * np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1))
    coverage = np.zeros((_TEXTURE, _TEXTURE), np.uint8)
    fixed_point = np.rint(points * 16).astype(np.int32)
    return cv2.fillPoly(coverage, [fixed_point], 255, cv2.LINE_AA, shift=4)


def _paint(
    frames: Float32[np.ndarray, "t h w 3"],
    image: UInt8[np.ndarray, "s s 4"],
    phases: Float32[np.ndarray, "t 4"],
) -> None:
    """Lay a shape over all frames, in place, where its phases say."""
    size = frames.shape[1]
    radius = size * _RADIUS[0] * (_RADIUS[1] / _RADIUS[0]) ** phases[:, SIZE]
    x, y = phases[:, X] * size, phases[:, Y] * size
    paint(frames, image, x, y, radius, phases[:, ANGLE])


def _along_arc(arc: float, times: Float32[np.ndarray, "t"]) -> Float32[np.ndarray, "t 4"]:
    """What a half circle adds to the phases; nothing at mid-video."""
    heading = np.pi * (times + 0.5)
    moved = np.zeros((len(times), 4), np.float32)
    moved[:, X] = abs(arc) / np.pi * (np.sin(heading) - 1)
    moved[:, Y] = -arc / np.pi * np.cos(heading)
    return moved
