"""The embedded data set: small encoded videos whose class is the motion and nothing else.

Textured shapes move over a drifting textured background. Each phase of a shape (see `data.scenes`)
is uniform on its circle at *every* instant, however it moves; the class says only what moves, and
which way. So each frame by itself has the same distribution in every class, and reversing a video
turns each class into its partner. Every frame is coded by itself at a constant quantiser: one that
leans on its neighbours would show the motion in its residue.

A shape that spins about itself is not a class: small networks that were tried learned all other
motions in minutes and stayed at chance between the two ways of spinning. Turning is a matter of the
path, a half circle that starts to the right.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data.embedded import scenes
from squeezetime_jax.data.embedded.folder import claim, complete
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole
from squeezetime_jax.machine import available_cpus

CLASSES = (
    "moving right", "moving left", "moving down", "moving up",
    "growing", "shrinking", "circling clockwise", "circling counter-clockwise",
)  # fmt: skip
"""Class names, by label. Labels `2k` and `2k + 1` are each other's time reversal."""

CIRCLING = 3
"""Half the label of the classes that no phase's rate makes; the others' is the phase."""

_SHAPES_PER_VIDEO = 2
_SPEED = (0.5, 1.0)  # how far a moving shape goes in one video, in frame sides
_GROWTH = 0.5  # of that, what the log-size turns of its circle: about as fast to see
_DRIFT = 0.2  # largest share of its circle that any other phase turns, at difficulty 1
_MARKER = "motion.json"
_FOREIGN = f"not empty, and not a motion data set (no {_MARKER}); choose a new or empty folder"
_OTHER = (
    "holds a motion data set made with {was}, expected {expected}; choose another folder or delete"
    " this one"
)


def draw_scene(
    rng: np.random.Generator, label: int, *, size: int = 64, difficulty: float = 0.3
) -> scenes.Scene:
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
    background, background_colour = scenes.draw_background(rng, size, difficulty)
    speed = rng.uniform(*_SPEED)
    shapes = tuple(
        _draw_shape(rng, label, speed, background_colour, difficulty)
        for _ in range(_SHAPES_PER_VIDEO)
    )
    return scenes.Scene(
        background=background,
        phase=rng.uniform(size=2).astype(np.float32),
        rate=(difficulty * rng.uniform(-_SPEED[1], _SPEED[1], 2)).astype(np.float32),
        shapes=shapes,
        noise=12.0 * difficulty,
        noise_seed=int(rng.integers(2**63)),
    )


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
    return scenes.render(scene, size=size, num_frames=num_frames), label


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
    marker = folder / _MARKER
    if claim(marker, arguments, foreign=_FOREIGN, other=_OTHER):
        return folder
    jobs = [("train", i) for i in range(num_train)] + [("test", i) for i in range(num_test)]
    write = functools.partial(
        _write_video, folder, seed=seed, size=size, num_frames=num_frames, difficulty=difficulty
    )
    with ThreadPoolExecutor(workers or available_cpus()) as pool:
        lines = list(pool.map(lambda job: write(*job), jobs, chunksize=1))
    write_whole(folder / "train.txt", "".join(lines[:num_train]))
    write_whole(folder / "test.txt", "".join(lines[num_train:]))
    write_whole(folder / "label_map.txt", "".join(f"{name}\n" for name in CLASSES))
    complete(marker, arguments)
    return folder


def _draw_shape(
    rng: np.random.Generator,
    label: int,
    speed: float,
    background_colour: np.ndarray,
    difficulty: float,
) -> scenes.Shape:
    image = scenes.draw_image(rng, background_colour, difficulty)
    rate = difficulty * rng.uniform(-_DRIFT, _DRIFT, 4)
    way, axis = speed * (1 if label % 2 == 0 else -1), label // 2
    if axis in (scenes.X, scenes.Y):
        rate[axis] = way
    elif axis == scenes.SIZE:
        rate[axis] = _GROWTH * way
    return scenes.Shape(
        image=image,
        phase=rng.uniform(size=4).astype(np.float32),
        rate=rate.astype(np.float32),
        arc=way if axis == CIRCLING else 0.0,
    )


def _write_video(folder: Path, split: str, index: int, *, seed: int, **how: Any) -> str:
    """Write one video unless it is there; its line of the annotation list."""
    label = index % len(CLASSES)
    relative = f"{split}/{CLASSES[label].replace(' ', '_')}/{index:05d}.mp4"
    path = folder / relative
    if not path.exists():
        frames, _ = motion_video(seed=seed, split=split, index=index, **how)
        scenes.encode(path, frames)
    return f"{relative} {label}\n"


def _check_range(name: str, value: int | float, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise UserError(f"motion data set: {name} must be {expected}, got {value}")
