"""The embedded data set: small encoded videos whose class is the motion and nothing else.

Textured shapes move over a drifting textured background. Everything a shape can do lives on a
circle: its place across and down (it leaves on one side and comes back on the other), the log of
its size (having outgrown the largest size it starts again as the smallest) and its angle. Each is
uniform on its circle at *every* instant, however it moves; the class says only what moves, and
which way. So each frame by itself has the same distribution in every class, and reversing a video
turns each class into its partner. Every frame is coded by itself at a constant quantiser: one that
leans on its neighbours would show the motion in its residue.

A shape spinning about itself is no class: small networks that were tried learned all other motions
in minutes and stayed at chance between the two ways of spinning. Turning is a matter of the path, a
half circle that starts to the right.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from squeezetime_jax.errors import UserError

CLASSES = (
    "moving right", "moving left", "moving down", "moving up",
    "growing", "shrinking", "circling clockwise", "circling counter-clockwise",
)  # fmt: skip
"""Class names, by label. Labels `2k` and `2k + 1` are each other's time reversal."""

_X, _Y, _SIZE, _ANGLE = range(4)  # the phases of a shape, each in turns of its circle
_CIRCLING = 3  # half the label of the classes that no phase's rate makes
_SHAPES_PER_VIDEO = 2
_RADIUS = (0.16, 0.42)  # smallest and largest, as a share of the frame's side
_SPEED = (0.5, 1.0)  # how far a moving shape goes in one video, in frame sides
_GROWTH = 0.5  # of that, what the log-size turns of its circle: about as fast to see
_DRIFT = 0.2  # largest share of its circle that any other phase turns, at difficulty 1
_TEXTURE = 48  # side of a shape's own texture, in texels
_FINER = 2  # texels of the background per pixel, so that it moves by half pixels
FRAMES_PER_SECOND = 25
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
    """All that a motion video shows.

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


def draw_scene(
    rng: np.random.Generator, label: int, *, size: int = 64, difficulty: float = 0.3
) -> Scene:
    """Draw a scene of one class.

    Everything but the class's own motion is drawn without looking at the label.

    Args:
      rng: the scene's own generator.
      label: index into `CLASSES`.
      size: side of the frame, in pixels.
      difficulty: 0 (shapes stand out, all else is still) to 1 (the background moves as fast as the
        shapes, the shapes drift in every other way as well, colours are close, pixels are noisy).

    Returns:
      The scene.
    """
    background, background_colour = draw_background(rng, size, difficulty)
    speed = rng.uniform(*_SPEED)
    shapes = tuple(
        _draw_shape(rng, label, speed, background_colour, difficulty)
        for _ in range(_SHAPES_PER_VIDEO)
    )
    return Scene(
        background=background,
        phase=rng.uniform(size=2).astype(np.float32),
        rate=(difficulty * rng.uniform(-_SPEED[1], _SPEED[1], 2)).astype(np.float32),
        shapes=shapes,
        noise=12.0 * difficulty,
        noise_seed=int(rng.integers(2**63)),
    )


def draw_background(
    rng: np.random.Generator, size: int, difficulty: float
) -> tuple[UInt8[np.ndarray, "s s 3"], Float[np.ndarray, "3"]]:
    """Draw a texture that tiles the plane, for `Scene.background`, and its mean colour."""
    colour = rng.uniform(40, 120, 3)
    contrast = 12 + 30 * difficulty
    return _texture(rng, _FINER * size, 6, colour, contrast), colour


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


def reverse(scene: Scene) -> Scene:
    """The scene whose frames are the given scene's in reversed order (the pixel noise apart)."""
    shapes = tuple(
        dataclasses.replace(shape, rate=-shape.rate, arc=-shape.arc) for shape in scene.shapes
    )
    return dataclasses.replace(scene, rate=-scene.rate, shapes=shapes)


def motion_video(
    *, seed: int, split: str, index: int, size: int, num_frames: int, difficulty: float
) -> tuple[UInt8[np.ndarray, "t h w 3"], int]:
    """Video `index` of a split, and its label; train and test never share a generator.

    Args:
      seed: seed of the data set.
      split: "train" or "test".
      index: position in the split; the label is `index % len(CLASSES)`.
      size: side of the frame, in pixels.
      num_frames: number of frames.
      difficulty: 0 to 1, see `draw_scene`.

    Returns:
      RGB frames and the label.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(split), index])
    label = index % len(CLASSES)
    scene = draw_scene(rng, label, size=size, difficulty=difficulty)
    return render(scene, size=size, num_frames=num_frames), label


def write_motion_dataset(
    folder: str | os.PathLike[str],
    *,
    num_train: int,
    num_test: int,
    seed: int = 0,
    size: int = 64,
    num_frames: int = 20,
    difficulty: float = 0.3,
    workers: int | None = None,
) -> Path:
    """Write the motion data set, or find it written.

    The folder then holds `train.txt` and `test.txt` (a line `path label` per video, paths relative
    to the folder), `label_map.txt` (a class name per line) and the videos, named
    `<split>/<class_name>/<index>.mp4`, which also make a folder-per-class source. A call that was
    cut short is taken up where it stopped; a complete folder of the same arguments is reused.

    Args:
      folder: where to write; made if absent.
      num_train: number of training videos.
      num_test: number of test videos.
      seed: seed of everything.
      size: side of the square frames, in pixels; even and at least 32.
      num_frames: frames of a video.
      difficulty: 0 to 1, see `draw_scene`.
      workers: threads; by default one per core.

    Returns:
      The folder.

    Raises:
      UserError: an argument is out of range, or the folder holds something else.
    """
    _check_range("size", size, size >= 32 and size % 2 == 0, "an even number from 32")
    _check_range("num_frames", num_frames, num_frames >= 2, "at least 2")
    _check_range("difficulty", difficulty, 0 <= difficulty <= 1, "0 to 1")
    _check_range("num_train", num_train, num_train >= 1, "at least 1")
    _check_range("num_test", num_test, num_test >= 1, "at least 1")
    folder = Path(folder)
    arguments = {
        "version": 1, "seed": seed, "num_train": num_train, "num_test": num_test,
        "size": size, "num_frames": num_frames, "difficulty": difficulty,
    }  # fmt: skip
    if _claim(folder, arguments):
        return folder
    jobs = [("train", i) for i in range(num_train)] + [("test", i) for i in range(num_test)]
    write = functools.partial(
        _write_video, folder, seed=seed, size=size, num_frames=num_frames, difficulty=difficulty
    )
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        lines = list(pool.map(lambda job: write(*job), jobs, chunksize=1))
    _write_text(folder / "train.txt", "".join(lines[:num_train]))
    _write_text(folder / "test.txt", "".join(lines[num_train:]))
    _write_text(folder / "label_map.txt", "".join(f"{name}\n" for name in CLASSES))
    _write_text(folder / _MARKER, json.dumps(arguments | {"complete": True}))
    return folder


_MARKER = "motion.json"


def _claim(folder: Path, arguments: dict[str, int | float]) -> bool:
    """Make the folder ours; True if it is already complete."""
    marker = folder / _MARKER
    if marker.exists():
        try:
            found = json.loads(marker.read_text())
        except ValueError:
            found = {}
        differing = [k for k, v in arguments.items() if found.get(k) != v]
        if differing:
            was = ", ".join(f"{k}={found.get(k)}" for k in differing)
            wanted = ", ".join(f"{k}={arguments[k]}" for k in differing)
            raise UserError(
                f"{folder}: holds a motion data set made with {was}; wanted {wanted}; "
                "choose another folder or delete this one"
            )
        return bool(found.get("complete"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: holds something that is no motion data set (no {_MARKER}); wanted a new or "
            "empty folder; choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(marker, json.dumps(arguments | {"complete": False}))
    return False


def _write_video(folder: Path, split: str, index: int, *, seed: int, **how: Any) -> str:
    """Write one video unless it is there; its line of the annotation list."""
    label = index % len(CLASSES)
    relative = f"{split}/{CLASSES[label].replace(' ', '_')}/{index:05d}.mp4"
    path = folder / relative
    if not path.exists():
        frames, _ = motion_video(seed=seed, split=split, index=index, **how)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        encode(part, frames)
        part.replace(path)
    return f"{relative} {label}\n"


def encode(
    path: str | os.PathLike[str],
    frames: UInt8[np.ndarray, "t h w 3"],
    fps: int = FRAMES_PER_SECOND,
) -> None:
    """Write frames as H.264 in mp4, every frame by itself and at the same quantiser.

    Args:
      path: the file to write, of any name.
      frames: RGB, even height and width.
      fps: frames per second.
    """
    # The preset that is decoded fastest: every epoch decodes, and files this small may be larger.
    options = {"preset": "ultrafast", "qp": str(_QUANTISER), "x264-params": "keyint=1"}
    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_type = "NONE"  # frames this small cost more to hand over than to code
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _draw_shape(
    rng: np.random.Generator,
    label: int,
    speed: float,
    background_colour: np.ndarray,
    difficulty: float,
) -> Shape:
    image = draw_image(rng, background_colour, difficulty)
    rate = difficulty * rng.uniform(-_DRIFT, _DRIFT, 4)
    way, axis = speed * (1 if label % 2 == 0 else -1), label // 2
    if axis in (_X, _Y):
        rate[axis] = way
    elif axis == _SIZE:
        rate[axis] = _GROWTH * way
    return Shape(
        image=image,
        phase=rng.uniform(size=4).astype(np.float32),
        rate=rate.astype(np.float32),
        arc=way if axis == _CIRCLING else 0.0,
    )


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


def _texture(
    rng: np.random.Generator, size: int, cells: int, colour: np.ndarray, contrast: float
) -> UInt8[np.ndarray, "s s 3"]:
    """Smooth random blobs around a colour, tiling the plane."""
    coarse = rng.standard_normal((cells, cells, 3)).astype(np.float32)
    # Two more cells on each side, so that interpolation sees across the seam.
    padded, side = (
        np.pad(coarse, ((2, 2), (2, 2), (0, 0)), "wrap"),
        round(size * (cells + 4) / cells),
    )
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


def _paint(
    frames: Float32[np.ndarray, "t h w 3"],
    image: UInt8[np.ndarray, "s s 4"],
    phases: Float32[np.ndarray, "t 4"],
) -> None:
    """Lay a shape over all frames, in place, where its phases say."""
    size = frames.shape[1]
    radius = size * _RADIUS[0] * (_RADIUS[1] / _RADIUS[0]) ** phases[:, _SIZE]
    x, y = phases[:, _X] * size, phases[:, _Y] * size
    paint(frames, image, x, y, radius, phases[:, _ANGLE])


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


def _along_arc(arc: float, times: Float32[np.ndarray, "t"]) -> Float32[np.ndarray, "t 4"]:
    """What a half circle adds to the phases; nothing at mid-video."""
    heading = np.pi * (times + 0.5)
    moved = np.zeros((len(times), 4), np.float32)
    moved[:, _X] = abs(arc) / np.pi * (np.sin(heading) - 1)
    moved[:, _Y] = -arc / np.pi * np.cos(heading)
    return moved


def _check_range(name: str, value: int | float, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise UserError(f"motion data set: {name}: found {value}; wanted {wanted}")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
