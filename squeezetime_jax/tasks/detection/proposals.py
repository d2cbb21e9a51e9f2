"""Boxes in which a person detector found somebody: AVA's pickles, or the same as npz or parquet.

A pickle may say to run anything, so it is read as data: dictionaries, text and plain float arrays
are put together here, and nothing it names is imported or called.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from squeezetime_jax.checkpoint import inert_pickle
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole
from squeezetime_jax.tasks.detection.annotations import Frame

# AVA's training file takes some six million steps.
_MAX_OPCODES = 50_000_000
_MAX_BYTES = 2_000_000_000
_SUFFIXES = (".pkl", ".npz", ".parquet")
_FLOATS = ("f8", "f4")

PERSON_SCORE = 0.9
MOST = 1000


class Proposals:
    """Boxes of every frame, x1, y1, x2, y2 as shares of it, and how sure the detector was.

    Args:
      found: (n, 5) boxes with scores by frame; or (n, 4), then every score is 1.
      name: what errors call it.

    Raises:
      UserError: an array has another shape, a box is outside of [0, 1], a number is not finite.
    """

    def __init__(self, found: Mapping[Frame, np.ndarray], name: str = "proposals"):
        self.name = name
        self._found = {frame: _checked(name, frame, boxes) for frame, boxes in found.items()}

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, frame: Frame) -> bool:
        return frame in self._found

    def frames(self) -> list[Frame]:
        """The frames that have an entry."""
        return list(self._found)

    def all_of(self, frame: Frame) -> Float64[np.ndarray, "n 5"]:
        """Everything found in a frame."""
        return self._found[frame]

    def chosen(
        self, frame: Frame, score: float = PERSON_SCORE, most: int = MOST
    ) -> Float64[np.ndarray, "n 5"]:
        """The boxes of a frame that count (mmaction2's choice).

        Args:
          frame: which.
          score: least score. Where no box reaches it, those of the highest score count.
          most: of more, the first in the file's order count.

        Returns:
          Boxes with scores; for a frame without an entry, the whole frame with a score of 1.
        """
        found = self._found.get(frame)
        if found is None or not len(found):
            return np.array([[0.0, 0.0, 1.0, 1.0, 1.0]])
        return found[found[:, 4] >= min(score, found[:, 4].max())][:most]


def _checked(name: str, frame: Frame, boxes: np.ndarray) -> Float64[np.ndarray, "n 5"]:
    def bad(found: str, wanted: str) -> UserError:
        return UserError(
            f"{name}, entry {frame[0]},{frame[1]:04d}: found {found}, wanted {wanted};"
            " make the proposals again"
        )

    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5) or boxes.dtype.kind != "f":
        raise bad(f"{boxes.dtype} of shape {boxes.shape}", "floats of shape (boxes, 4 or 5)")
    boxes = boxes.astype(np.float64)
    if boxes.shape[1] == 4:
        boxes = np.hstack([boxes, np.ones((len(boxes), 1))])
    if not np.isfinite(boxes).all():
        raise bad("a number that is not finite", "x1, y1, x2, y2, score")
    outside = (boxes[:, :4] < 0) | (boxes[:, :4] > 1)
    if outside.any():
        row = boxes[outside.any(axis=1)][0, :4].tolist()
        raise bad(f"box {row}", "coordinates in [0, 1], as shares of the frame")
    if (boxes[:, :2] > boxes[:, 2:4]).any():
        raise bad("a box with its corners in another order", "x1 <= x2 and y1 <= y2")
    return boxes


def read_proposals(path: str | os.PathLike[str]) -> Proposals:
    """Read proposals.

    Args:
      path: a pickle of a dictionary from "<video_id>,<second>" to arrays, as AVA's are given; or
        what `write_proposals` wrote, npz or parquet.

    Raises:
      UserError: it is none of these, or an entry is not what it should be; the entry is named.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            found = _from_columns(path, _read_npz(path))
        elif path.suffix == ".parquet":
            found = _from_columns(path, _read_parquet(path))
        else:
            found = _read_pickle(path)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or error}); check it") from None
    return Proposals(found, str(path))


def write_proposals(path: str | os.PathLike[str], proposals: Proposals) -> None:
    """Write proposals as npz or parquet, whole or not at all: read faster than a pickle.

    Columns `video_id`, `second`, `x1`, `y1`, `x2`, `y2`, `score`, a row a box.

    Raises:
      UserError: the file is named otherwise, or cannot be written.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES[1:]:
        raise UserError(f"{path}: wanted a name that ends in .npz or .parquet")
    frames = proposals.frames()
    boxes = [proposals.all_of(frame) for frame in frames]
    counts = [len(found) for found in boxes]
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


_COORDINATES = ("x1", "y1", "x2", "y2", "score")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if sum(entry.file_size for entry in file.zip.infolist()) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
            return {name: file[name] for name in ("video_id", "second", *_COORDINATES)}
    except (OSError, MemoryError):
        raise
    except Exception as error:  # NumPy's, zipfile's and zlib's own kinds
        raise _no_columns(path, error) from None


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(f"{path}: reading parquet takes pyarrow; install it, or use npz") from None
    try:
        table = pyarrow.parquet.read_table(path)
        names = ("video_id", "second", *_COORDINATES)
        return {name: np.asarray(table.column(name).to_pylist()) for name in names}
    except (pyarrow.ArrowException, KeyError) as error:
        raise _no_columns(path, error) from None


def _no_columns(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120]
    return UserError(
        f"{path}: not the columns of proposals ({reason}); convert a pickle with"
        " `python -m squeezetime_jax.tasks.detection.proposals IN.pkl OUT.npz`"
    )


def _from_columns(path: Path, columns: Mapping[str, np.ndarray]) -> dict[Frame, np.ndarray]:
    lengths = {len(column) if column.ndim == 1 else -1 for column in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise _no_columns(path, ValueError("columns of several lengths"))
    if lengths == {0}:
        return {}
    videos, seconds = columns["video_id"], columns["second"]
    if videos.dtype.kind != "U" or seconds.dtype.kind not in "iu":
        raise _no_columns(path, ValueError(f"video_id {videos.dtype}, second {seconds.dtype}"))
    boxes = np.stack([columns[name] for name in _COORDINATES], axis=1)
    starts = np.flatnonzero(
        np.concatenate([[True], (videos[1:] != videos[:-1]) | (seconds[1:] != seconds[:-1])])
    )
    parts = np.split(boxes, starts[1:])
    return {
        (str(videos[start]), int(seconds[start])): part
        for start, part in zip(starts, parts, strict=True)
    }


def _read_pickle(path: Path) -> dict[Frame, np.ndarray]:
    try:
        contents = inert_pickle.loads(
            path.read_bytes(),
            _FUNCTIONS,
            lambda _: inert_pickle.Inert("a persistent id"),
            keep_bytes=True,
            max_opcodes=_MAX_OPCODES,
        )
    except inert_pickle.PickleError as error:
        raise UserError(f"{path}: {error}; wanted a pickle of proposals; get it again") from None
    if not isinstance(contents, dict):
        raise UserError(
            f"{path}: holds {_kind(contents)}, wanted a dictionary of proposals by"
            ' "<video_id>,<second>"'
        )
    found: dict[Frame, np.ndarray] = {}
    room = 4 * path.stat().st_size  # entries may share an array, but not without end
    for key, value in contents.items():
        array = value.array() if isinstance(value, _Array) else None
        if array is None:
            raise UserError(
                f"{path}, entry {key!r:.60}: holds {_kind(value)}, wanted an array of boxes; is it"
                " a file of another version?"
            )
        room -= array.nbytes
        if room < 0:
            raise UserError(f"{path}: its entries share arrays and claim more than it holds")
        found[_frame(path, key)] = array
    return found


def _kind(value: Any) -> str:
    if isinstance(value, inert_pickle.Inert):
        return value.what
    return "an array of another type" if isinstance(value, _Array) else f"a {type(value).__name__}"


def _frame(path: Path, key: Any) -> Frame:
    video, _, second = str(key).rpartition(",")
    if not video or not second.isdecimal() or len(second) > 9:
        raise UserError(
            f'{path}, entry {key!r:.60}: wanted a key "<video_id>,<second>"; is it a file of'
            " another version?"
        )
    return video, int(second)


class _Array(inert_pickle.Buildable):
    """What stands in for an array while its pickle is read."""

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
            try:
                data = data.encode("latin-1")
            except UnicodeEncodeError:
                return None
        is_shape = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
        if not (is_shape and isinstance(dtype, _Dtype) and dtype.name in _FLOATS):
            return None
        itemsize = int(dtype.name[1])
        count = 1
        for n in shape:
            count *= n
        if not isinstance(data, bytes | bytearray) or count * itemsize != len(data):
            return None
        kind = np.dtype((">" if dtype.order == ">" else "<") + dtype.name)
        array = np.frombuffer(bytes(data), kind).reshape(shape, order="F" if fortran else "C")
        return array.astype(np.float64)


class _Dtype(inert_pickle.Buildable):
    """What stands in for an array's type."""

    def __init__(self, name: str):
        self.name, self.order = name, "<"

    def set_state(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


def _new_array(_: tuple[Any, ...]) -> _Array:
    return _Array()


def _from_buffer(arguments: tuple[Any, ...]) -> Any:
    """NumPy's own, of protocol 5: (buffer, dtype, shape, order)."""
    if len(arguments) != 4:
        return inert_pickle.Inert("an array without parts")
    data, dtype, shape, order = arguments
    return _Array((shape, dtype, order == "F", data))


def _new_dtype(arguments: tuple[Any, ...]) -> Any:
    name = arguments[0] if arguments else None
    return _Dtype(name) if isinstance(name, str) else inert_pickle.Inert("an array's type")


def _encode(arguments: tuple[Any, ...]) -> Any:
    """How protocol 2 of Python 3 writes bytes: text and "latin1"."""
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        try:
            return arguments[0].encode("latin-1")
        except UnicodeEncodeError:
            pass
    return inert_pickle.Inert("encoded text")


def _no_bytes(arguments: tuple[Any, ...]) -> Any:
    """How protocol 2 of Python 3 writes no bytes at all."""
    return inert_pickle.Inert("bytes") if arguments else b""


_FUNCTIONS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "numpy.dtype": _new_dtype,
    "_codecs.encode": _encode,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    **{
        f"numpy.{core}.multiarray._reconstruct": _new_array  # by NumPy 1 and by NumPy 2
        for core in ("core", "_core")
    },
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


def main(argv: list[str] | None = None) -> int:
    """Convert proposals: `python -m squeezetime_jax.tasks.detection.proposals IN.pkl OUT.npz`."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(
        prog="python -m squeezetime_jax.tasks.detection.proposals",
        description="Convert proposals from a pickle to npz or parquet; nothing in it is run.",
    )
    parser.add_argument("source", help="a pickle, npz or parquet file")
    parser.add_argument("target", help="a file ending in .npz or .parquet")
    args = parser.parse_args(argv)
    try:
        proposals = read_proposals(args.source)
        write_proposals(args.target, proposals)
    except UserError as error:
        print(f"detection.proposals: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.target}: {len(proposals)} frames")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
