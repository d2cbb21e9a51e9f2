"""Boxes of persons that a detector proposes: AVA's pickles, or the same as npz or parquet.

A pickle can run any code, so it is read as data: dictionaries, text and plain float arrays are
built here, and nothing it names is imported or called.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from squeezetime_jax.checkpoint import inert_pickle
from squeezetime_jax.data.tables import PathLike, expected
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole
from squeezetime_jax.tasks.detection.annotations import Frame
from squeezetime_jax.tasks.detection.frames import frame_name

_MAX_OPCODES = 50_000_000  # AVA's training file takes some six million
_MAX_BYTES = 2_000_000_000
_FLOATS = ("f8", "f4")
_COORDINATES = ("x1", "y1", "x2", "y2", "score")
_COLUMNS = ("video_id", "second", *_COORDINATES)


class Proposals:
    """Boxes of every frame, x1, y1, x2, y2 as shares of it, and the detector's scores.

    Args:
      found: (n, 5) boxes with scores by frame; or (n, 4), then every score is 1.
      name: of the file, for errors.

    Raises:
      UserError: an array has another shape, a box is outside [0, 1], a number is not finite.
    """

    def __init__(self, found: Mapping[Frame, np.ndarray], name: str = "proposals"):
        self._found = {
            frame: _checked(f"{name}, entry {frame_name(frame)}", boxes)
            for frame, boxes in found.items()
        }

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, frame: Frame) -> bool:
        return frame in self._found

    def frames(self) -> list[Frame]:
        """The frames that have an entry."""
        return list(self._found)

    def all_of(self, frame: Frame) -> Float64[np.ndarray, "n 5"]:
        """All boxes of a frame, with scores."""
        return self._found[frame]

    def select(
        self, frame: Frame, min_score: float = 0.9, max_boxes: int = 1000
    ) -> Float64[np.ndarray, "n 5"]:
        """The boxes of a frame that are used (mmaction2's choice).

        Args:
          frame: video and second.
          min_score: least score. Where no box reaches it, those of the highest score are used.
          max_boxes: of more boxes, the first ones in the file's order are used.

        Returns:
          Boxes with scores; for a frame without an entry, the whole frame with a score of 1.
        """
        found = self._found.get(frame)
        if found is None or not len(found):
            return np.array([[0.0, 0.0, 1.0, 1.0, 1.0]])
        return found[found[:, 4] >= min(min_score, found[:, 4].max())][:max_boxes]


def _checked(place: str, boxes: np.ndarray) -> Float64[np.ndarray, "n 5"]:
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5) or boxes.dtype.kind != "f":
        raise UserError(
            f"{place}: expected floats of shape (boxes, 4 or 5), got {boxes.dtype} of shape"
            f" {boxes.shape}"
        )
    boxes = boxes.astype(np.float64)
    if boxes.shape[1] == 4:
        boxes = np.hstack([boxes, np.ones((len(boxes), 1))])
    corners = boxes[:, :4]
    for is_bad, expectation in (
        (~np.isfinite(boxes).all(axis=1), "finite numbers x1, y1, x2, y2, score"),
        (((corners < 0) | (corners > 1)).any(axis=1), "x1, y1, x2, y2 in [0, 1], as shares"),
        ((boxes[:, :2] > boxes[:, 2:4]).any(axis=1), "a box with x1 <= x2 and y1 <= y2"),
    ):
        if is_bad.any():
            raise expected(place, expectation, boxes[is_bad][0].tolist())
    return boxes


def read_proposals(path: PathLike) -> Proposals:
    """Read proposals.

    Args:
      path: a pickle of a dictionary from "<video_id>,<second>" to arrays, AVA's own form; or an npz
        or parquet file that `write_proposals` wrote.

    Raises:
      UserError: it is none of these, or an entry is invalid; the message names it.
    """
    path = Path(path)
    try:
        if path.suffix in (".npz", ".parquet"):
            found = _from_columns(path, _read_columns(path))
        else:
            found = _read_pickle(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    return Proposals(found, str(path))


def write_proposals(path: PathLike, proposals: Proposals) -> None:
    """Write proposals as npz or parquet, whole or not at all: faster to read than a pickle.

    Columns `video_id`, `second`, `x1`, `y1`, `x2`, `y2`, `score`, a row per box.

    Raises:
      UserError: the name has another suffix, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".parquet"):
        raise UserError(f"{path}: the name must end in .npz or .parquet")
    frames = proposals.frames()
    boxes = [proposals.all_of(frame) for frame in frames]
    counts = [len(each) for each in boxes]
    all_boxes = np.concatenate([*boxes, np.zeros((0, 5))])
    columns = {
        "video_id": np.repeat(np.array([video for video, _ in frames], np.str_), counts),
        "second": np.repeat(np.array([second for _, second in frames], np.int64), counts),
        **{name: all_boxes[:, i] for i, name in enumerate(_COORDINATES)},
    }
    with whole(path) as part, part.open("wb") as file:
        if path.suffix == ".npz":
            np.savez_compressed(file, **columns)  # type: ignore[arg-type]
        else:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(columns), file)


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path)
            return {name: np.asarray(table.column(name).to_pylist()) for name in _COLUMNS}
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
            return {name: file[name] for name in _COLUMNS}
    except ModuleNotFoundError:
        raise UserError(f"{path}: reading it needs the package pyarrow; or use npz") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # NumPy, zipfile, zlib and pyarrow raise many kinds
        raise _bad_columns(path, error) from None


def _bad_columns(path: Path, reason: object) -> UserError:
    text = " ".join(str(reason).split())[:120]
    return UserError(
        f"{path}: expected the columns {', '.join(_COLUMNS)} ({text}); convert the pickle again"
        " with `squeezetime ava-proposals IN.pkl OUT.npz`"
    )


def _from_columns(path: Path, columns: Mapping[str, np.ndarray]) -> dict[Frame, np.ndarray]:
    shapes = {column.shape for column in columns.values()}
    videos, seconds = columns["video_id"], columns["second"]
    if len(shapes) != 1 or videos.ndim != 1:
        raise _bad_columns(path, "columns of several lengths")
    if not len(videos):
        return {}
    if videos.dtype.kind != "U" or seconds.dtype.kind not in "iu":
        raise _bad_columns(path, f"video_id is {videos.dtype}, second {seconds.dtype}")
    boxes = np.stack([columns[name] for name in _COORDINATES], axis=1)
    is_next = (videos[1:] != videos[:-1]) | (seconds[1:] != seconds[:-1])
    starts = [0, *(np.flatnonzero(is_next) + 1).tolist()]
    parts = np.split(boxes, starts[1:])
    return {
        (str(videos[start]), int(seconds[start])): part
        for start, part in zip(starts, parts, strict=True)
    }


def _read_pickle(path: Path) -> dict[Frame, np.ndarray]:
    try:
        contents = inert_pickle.loads(
            path.read_bytes(),
            _STAND_INS,
            lambda _: inert_pickle.Inert("a persistent id"),
            keep_bytes=True,
            max_opcodes=_MAX_OPCODES,
        )
    except inert_pickle.PickleError as error:
        raise UserError(f"{path}: invalid pickle ({error}); download it again") from None
    if not isinstance(contents, dict):
        raise UserError(
            f'{path}: expected a dictionary by "<video_id>,<second>", got {_kind(contents)}'
        )
    found: dict[Frame, np.ndarray] = {}
    room = 4 * path.stat().st_size  # entries may share an array, but not without limit
    for key, value in contents.items():
        array = value.array() if isinstance(value, _Array) else None
        if array is None:
            raise UserError(
                f"{path}, entry {key!r:.60}: expected an array of floats, got {_kind(value)}"
            )
        room -= array.nbytes
        if room < 0:
            raise UserError(f"{path}: the entries share arrays and exceed the size of the file")
        video, _, second = str(key).rpartition(",")
        if not video or not second.isdecimal() or len(second) > 9:
            raise expected(str(path), 'keys "<video_id>,<second>"', key)
        found[video, int(second)] = array
    return found


def _kind(value: Any) -> str:
    if isinstance(value, inert_pickle.Inert):
        return value.what
    return "an array of another type" if isinstance(value, _Array) else f"a {type(value).__name__}"


class _Array(inert_pickle.Buildable):
    """Stands in for an array while its pickle is read."""

    def __init__(self, parts: tuple[Any, ...] = ()):
        self._parts = parts  # shape, dtype, Fortran order, bytes

    def set_state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            self._parts = state[1:]

    def array(self) -> np.ndarray | None:
        """The array, if the parts are those of floats and fit each other."""
        if len(self._parts) != 4:
            return None
        shape, dtype, fortran, data = self._parts
        if isinstance(data, str):  # Python 2 wrote bytes as text
            data = _latin1(data)
        is_shape = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
        if not (is_shape and isinstance(dtype, _Dtype) and dtype.name in _FLOATS):
            return None
        kind = np.dtype((">" if dtype.order == ">" else "<") + dtype.name)
        if not isinstance(data, bytes | bytearray) or math.prod(shape) * kind.itemsize != len(data):
            return None
        array = np.frombuffer(bytes(data), kind).reshape(shape, order="F" if fortran else "C")
        return array.astype(np.float64)


class _Dtype(inert_pickle.Buildable):
    """Stands in for the type of an array."""

    def __init__(self, name: Any):
        self.name, self.order = name, "<"

    def set_state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


def _latin1(text: str) -> bytes | None:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return None


def _new_dtype(arguments: tuple[Any, ...]) -> _Dtype:
    return _Dtype(arguments[0] if arguments else None)


def _from_buffer(arguments: tuple[Any, ...]) -> _Array:
    """NumPy's own, of protocol 5: (buffer, dtype, shape, order)."""
    if len(arguments) != 4:
        return _Array()
    data, dtype, shape, order = arguments
    return _Array((shape, dtype, order == "F", data))


def _encoded(arguments: tuple[Any, ...]) -> Any:
    """How Python 3 writes bytes in protocol 2: text and "latin1"."""
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return _latin1(arguments[0])
    return inert_pickle.Inert("encoded text")


def _no_bytes(arguments: tuple[Any, ...]) -> Any:
    """How Python 3 writes empty bytes in protocol 2."""
    return inert_pickle.Inert("bytes") if arguments else b""


_STAND_INS = {
    "numpy.dtype": _new_dtype,
    "_codecs.encode": _encoded,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    # NumPy 1 and NumPy 2.
    "numpy.core.multiarray._reconstruct": lambda _: _Array(),
    "numpy._core.multiarray._reconstruct": lambda _: _Array(),
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
