"""The embedded data set: videos of several "persons", annotated in AVA's formats.

A person is a textured shape of the motion videos. Within two seconds it walks once around a circle,
in either direction, and grows and shrinks once. Its action is its direction at the annotated
second, in the hours of a clock, and, for some, that it is growing or shrinking then. Every person
walks the whole circle and takes every size, so the set of frames without their order shows nothing
of the action. The box of a person is the area that it covers while it walks, and does not show
where on its circle it is.

There are `FPS` frames per second from second `START` on, and the annotated second is in the middle
of the video.
"""

import dataclasses
import functools
import math
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8

from squeezetime_jax.data.embedded import scenes
from squeezetime_jax.data.embedded.folder import claim, complete
from squeezetime_jax.errors import check_fields
from squeezetime_jax.files import write_whole
from squeezetime_jax.machine import available_cpus

FPS, START, SECONDS = 16, 900, 2
SECOND = START + SECONDS // 2
HOURS = 12
ACTIONS = (
    *(f"heading for {hour} o'clock" for hour in range(1, HOURS + 1)),
    "growing",
    "shrinking",
)
"""Names of the actions; the ids count from 1."""
_GROWING, _SHRINKING = HOURS + 1, HOURS + 2

_DIRECTIONS = (-1, 1)  # around the circle; clockwise is 1
_PLACES = 2  # along each side: each person has a quarter of the frame
_PERSONS = (2, 4)
# As shares of the frame's side.
_CIRCLE = (0.1, 0.125)  # radius of the walk
_RADIUS = (0.08, 0.095)  # of a shape of middle size
_GROWTH = 0.3  # amplitude of the log-size
_WANDER = 0.03  # largest distance of a circle's centre from the centre of its quarter
_JITTER = 0.7  # largest distance of a direction from the full hour, in half-hours
_SLACK = 0.03  # largest error of a proposal's edges, in sides of the box
_MARKER = "people.json"
_FOREIGN = f"not empty, and not written by this program (no {_MARKER}); choose another folder"
_OTHER = "has videos of people made with {was}, not {expected}; choose another folder or delete it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class People:
    """The settings of the data set.

    Attributes:
      num_train: number of training videos.
      num_test: number of test videos.
      size: side of the frames, in pixels; even and at least 32.
      difficulty: 0 to 1, as of the motion videos.
      seed: everything random follows from it.

    Raises:
      ValueError: a field is out of range.
    """

    num_train: int = 1600
    num_test: int = 300
    size: int = 48
    difficulty: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("num_train", self.num_train >= 1, "at least 1"),
            ("num_test", self.num_test >= 1, "at least 1"),
            ("size", self.size >= 32 and self.size % 2 == 0, "an even number from 32"),
            ("difficulty", 0 <= self.difficulty <= 1, "0 to 1"),
        )


class Person(NamedTuple):
    """A person of a video.

    Attributes:
      box: x1, y1, x2, y2 as shares of the frame.
      actions: ids.
    """

    box: tuple[float, float, float, float]
    actions: tuple[int, ...]


def people_video(
    people: People, split: str, index: int
) -> tuple[UInt8[np.ndarray, "t h w 3"], list[Person]]:
    """Video `index` of a split, and its persons; every video has its own generator.

    Args:
      people: the data set.
      split: "train" or "test".
      index: position in the split.
    """
    rng = np.random.default_rng([people.seed, ("train", "test").index(split), index, HOURS])
    size, num_frames = people.size, FPS * SECONDS
    turns = (np.arange(num_frames, dtype=np.float32) - num_frames // 2) / num_frames
    background, colour = scenes.draw_background(rng, size, people.difficulty)
    frames = scenes.background_frames(
        background,
        (rng.uniform(size=2) + people.difficulty * rng.uniform(-1, 1, 2) * turns[:, None]).astype(
            np.float32
        ),
        size,
    )
    number = int(rng.integers(_PERSONS[0], _PERSONS[1] + 1))
    places = rng.permutation(_PLACES**2)[:number]
    persons = [_walk(rng, frames, int(place), turns, colour, people.difficulty) for place in places]
    frames += 12 * np.float32(people.difficulty) * rng.standard_normal(frames.shape, np.float32)
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8), persons


def _walk(
    rng: np.random.Generator,
    frames: np.ndarray,
    place: int,
    turns: np.ndarray,
    colour: np.ndarray,
    difficulty: float,
) -> Person:
    """Paint one person over all frames."""
    side = frames.shape[1]
    middle = (np.array([place % _PLACES, place // _PLACES]) + 0.5) / _PLACES
    middle = middle + rng.uniform(-_WANDER, _WANDER, 2)
    circle, radius = rng.uniform(*_CIRCLE), rng.uniform(*_RADIUS)
    hour, growth = rng.integers(1, HOURS + 1), rng.integers(HOURS)
    direction = rng.choice(_DIRECTIONS)
    off = _JITTER * rng.uniform(-0.5, 0.5, 2) / HOURS
    # In turns from twelve o'clock: heading for three, clockwise, a person is at twelve.
    angle = 2 * math.pi * (hour / HOURS + off[0] - direction / 4 + direction * turns)
    x = middle[0] + circle * np.sin(angle)
    y = middle[1] - circle * np.cos(angle)
    size = radius * np.exp(_GROWTH * np.sin(2 * math.pi * (growth / HOURS + off[1] + turns)))
    image = scenes.draw_image(rng, colour, difficulty)
    angles = np.full(len(turns), rng.uniform())
    scenes.paint(frames, image, x * side, y * side, size * side, angles)
    reach = circle + radius * math.exp(_GROWTH / 2)
    box = np.clip([*(middle - reach), *(middle + reach)], 0, 1).round(3).tolist()
    actions = [int(hour)]
    if growth == 0:
        actions.append(_GROWING)
    elif growth == HOURS // 2:
        actions.append(_SHRINKING)
    return Person(tuple(box), tuple(actions))


class Written(NamedTuple):
    """The files of a split.

    Attributes:
      root: folder of the videos, named `<video_id>.mp4`.
      ground_truth: csv file of annotated boxes.
      proposals: pickle of detected boxes.
      actions: the list of actions.
      excluded: frames that do not count; an empty file.
    """

    root: Path
    ground_truth: Path
    proposals: Path
    actions: Path
    excluded: Path


def written(folder: Path, split: str) -> Written:
    """The files of a split."""
    return Written(
        folder / "videos",
        folder / f"people_{split}.csv",
        folder / f"people_proposals_{split}.pkl",
        folder / "people_action_list.pbtxt",
        folder / f"people_{split}_excluded_timestamps.csv",
    )


def write_people(folder: Path, people: People, threads: int | None = None) -> Path:
    """Write the data set, unless it is there already. The next call continues an interrupted one.

    Args:
      folder: where to write; made if absent.
      people: settings of the data set.
      threads: by default one per core.

    Raises:
      UserError: the folder has other contents.
    """
    arguments = {"version": 1, **dataclasses.asdict(people)}
    marker = folder / _MARKER
    if claim(marker, arguments, foreign=_FOREIGN, other=_OTHER):
        return folder
    counts = {"train": people.num_train, "test": people.num_test}
    for split, number in counts.items():
        files = written(folder, split)
        files.root.mkdir(parents=True, exist_ok=True)
        write = functools.partial(_write_video, files.root, people, split)
        with ThreadPoolExecutor(threads or available_cpus()) as pool:
            videos = list(pool.map(write, range(number)))
        rows = "".join(row for k, persons in enumerate(videos) for row in _rows(split, k, persons))
        write_whole(files.ground_truth, rows)
        rng = np.random.default_rng([people.seed, 2, number])
        proposals = {
            f"{video_id(split, k)},{SECOND:04d}": _proposals(rng, persons)
            for k, persons in enumerate(videos)
        }
        write_whole(files.proposals, pickle.dumps(proposals, protocol=4))
        write_whole(files.excluded, b"")
        items = (f'item {{\n  name: "{a}"\n  id: {k}\n}}\n' for k, a in enumerate(ACTIONS, 1))
        write_whole(files.actions, "".join(items))
    complete(marker, arguments)
    return folder


def video_id(split: str, index: int) -> str:
    """The name of a video."""
    return f"{split}_{index:05d}"


def _write_video(root: Path, people: People, split: str, index: int) -> list[Person]:
    frames, persons = people_video(people, split, index)
    path = root / f"{video_id(split, index)}.mp4"
    if not path.exists():
        scenes.encode(path, frames, FPS)
    return persons


def _rows(split: str, index: int, persons: list[Person]) -> Iterator[str]:
    for number, person in enumerate(persons):
        box = ",".join(f"{value:.3f}" for value in person.box)
        for action in person.actions:
            yield f"{video_id(split, index)},{SECOND:04d},{box},{action},{number}\n"


def _proposals(rng: np.random.Generator, persons: list[Person]) -> Float64[np.ndarray, "n 5"]:
    """What a person detector might find: every person, roughly; and false ones of low score."""
    found = []
    for person in persons:
        box = np.array(person.box)
        slack = _SLACK * (box[2] - box[0])
        found.append([*np.clip(box + rng.uniform(-slack, slack, 4), 0, 1), rng.uniform(0.92, 1)])
    for _ in range(int(rng.integers(3))):
        corner = rng.uniform(0, 0.6, 2)
        found.append([*corner, *(corner + rng.uniform(0.1, 0.4, 2)), rng.uniform(0.1, 0.85)])
    return np.array(found, np.float64)
