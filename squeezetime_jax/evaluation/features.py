"""`squeezetime features`: pooled features of videos, one of each or one for each window."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from squeezetime_jax.data import workers
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.evaluation import bulk
from squeezetime_jax.evaluation.predict import Choices, expand
from squeezetime_jax.evaluation.reading import (
    Reading,
    Step,
    Windows,
    in_batches,
    read_videos,
    read_windows,
)
from squeezetime_jax.evaluation.views import Scorer
from squeezetime_jax.files import whole
from squeezetime_jax.machine import give_back_memory

Finish = Callable[[str, Float[np.ndarray, "time channels"]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What features are written.

    Attributes:
      out: a file that ends in .npz, or a folder for a .npy file of each video.
      every: step of the windows, as `reading.Step.parse` takes it; None: the mean over the views.
      workers: decoding processes.
      shard: the share of this host, as `bulk.parse_shard` takes it.
    """

    out: Path
    every: str | None = None
    workers: int | None = None
    shard: str | None = None


def write_features(words: Sequence[str], choices: Choices, request: Request) -> int:
    """Write the pooled features of videos.

    An archive has `features` (videos, channels) and `paths`. A folder has for each video a file
    `<name without suffix>.npy` of float32 (time, channels), one row for each window, or one; the
    videos that have a file are left out, so that the same command continues.

    Returns:
      The exit status: 1 if a video could not be read; the others are written.

    Raises:
      UserError: no video could be read, or a file cannot be written.
    """
    step = Step.parse(request.every) if request.every else None
    is_archive = request.out.suffix == ".npz"
    if request.out.suffix not in ("", ".npz"):
        raise UserError(
            f"--out {request.out}: expected a name that ends in .npz, or a folder for a .npy file"
            " of each video"
        )
    if step and is_archive:
        raise UserError(f"--out {request.out}: --every writes a file for each video; give a folder")
    if step:
        choices = dataclasses.replace(choices, views="1x1")
    paths = bulk.share(list(expand(words)), request.shard)
    out = bulk.name_of_share(request.out, request.shard) if is_archive else request.out
    sink: _Archive | _Folder = _Archive(out) if is_archive else _Folder(out, paths)
    model, protocol = choices.open()
    if step and step.in_frames:
        protocol = dataclasses.replace(protocol, target_fps=None)
    sink.begin({"checkpoint": choices.checkpoint, "every": request.every, **vars(protocol)})
    scorer = Scorer(model)
    del model
    give_back_memory()
    left = [path for path in paths if not sink.has(path)]
    with workers.progress_bar("features", len(paths)) as progress:
        progress(len(paths) - len(left))

        def finish(path: str, features: np.ndarray) -> None:
            sink.add(path, features)
            progress(1)

        size = scorer.videos_at_once(1 if step else protocol.num_views)
        readings: Iterable[Windows | Reading]
        if step:
            readings = read_windows(left, protocol, step, request.workers)
        else:
            readings = read_videos(left, protocol, request.workers)
        failed = _compute(readings, scorer.features, size, finish)
    sink.end(failed)
    if step:
        _print_format(step, protocol.target_fps, protocol.num_frames, protocol.frame_interval or 4)
    return 1 if failed else 0


def _compute(
    readings: Iterable[Windows | Reading],
    features: Callable[[np.ndarray], Any],
    size: int,
    finish: Finish,
) -> int:
    """Features of each video, as soon as all of its windows have theirs; how many failed."""
    failed: set[str] = set()
    parts: dict[str, list[np.ndarray]] = {}

    def rows() -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        for found in readings:
            if isinstance(found, Windows):
                for places in found.places:
                    yield (found.path, found.total), found.frames[places][None]
            elif found.views is not None:
                yield (found.path, 1), found.views
            else:
                failed.add(found.path)
                print(f"squeezetime features: {found.error}", file=sys.stderr)

    for (path, total), output in in_batches(rows(), features, size):
        parts.setdefault(path, []).append(np.asarray(output, np.float32))
        if len(parts[path]) == total:
            finish(path, np.stack(parts.pop(path)))
    return len(failed)


class _Archive:
    """All features in one .npz file, written at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, np.ndarray] = {}
        self._views = ""

    def begin(self, settings: dict) -> None:
        self._views = f"{settings['num_clips']}x{settings['num_crops']}"

    def has(self, path: str) -> bool:
        return False

    def add(self, path: str, features: np.ndarray) -> None:
        self._found[path] = features[0]

    def end(self, failed: int) -> None:
        if not self._found:
            raise UserError(f"{self._path}: not written, because no video could be read")
        features = np.stack(list(self._found.values()))
        paths, views = np.array(list(self._found)), np.array(self._views)
        with whole(self._path) as part, part.open("wb") as file:
            np.savez(file, features=features, paths=paths, views=views)
        print(
            f"wrote {self._path}: features {features.shape}, the mean over {self._views} views of"
            " each video"
        )


class _Folder:
    """A .npy file for each video."""

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self._folder = folder
        files: dict[Path, str] = {}
        for path in paths:
            other = files.setdefault(self._file(path), path)
            if other != path:
                raise UserError(
                    f"{other} and {path}: features of both would be {self._file(path).name}; give"
                    " them in two commands, with two folders"
                )

    def _file(self, path: str) -> Path:
        return self._folder / f"{Path(path).stem}.npy"

    def begin(self, settings: dict) -> None:
        bulk.same_job(self._folder / "features.json", settings)

    def has(self, path: str) -> bool:
        return self._file(path).exists()

    def add(self, path: str, features: np.ndarray) -> None:
        with whole(self._file(path)) as part, part.open("wb") as file:
            np.save(file, features)

    def end(self, failed: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            written = count(len(list(self._folder.glob("*.npy"))), "file")
            left = f"; {count(failed, 'video')} left out" if failed else ""
            print(f"{self._folder}: {written} of float32 (time, channels){left}")


def _print_format(step: Step, fps: float | None, num_frames: int, interval: int) -> None:
    """What ActionFormer and OpenTAD ask for in their configurations."""
    span = (num_frames - 1) * interval + 1
    stride = step.length if step.in_frames or not fps else step.length * fps
    rate = f"{fps:g} frames a second" if fps else "each video's own frames"
    print(
        f"at {rate}: feat_stride {stride:g} and num_frames {span} (ActionFormer), feature_stride"
        f" {stride:g} and offset_frames {span // 2} (OpenTAD)"
    )
