"""Ground truth and detections as JSON files in ActivityNet's format.

    {"database": {VIDEO: {"subset": NAME, "annotations": [{"segment": [S, E], "label": NAME}]}}}
    {"results": {VIDEO: [{"label": NAME, "score": X, "segment": [S, E]}]}, ...}

Segments are in seconds, as numbers or as strings of them (THUMOS14's file has strings).
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from squeezetime_jax.errors import UserError
from squeezetime_jax.files import write_whole

VERSION = "THUMOS14"
"""What the `version` field of a file of detections says, as the reference writes it."""

PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Instances:
    """Segments of videos, each with a label: ground truth, or detections with scores.

    Attributes:
      videos: the video of each instance.
      labels: its class name.
      segments: its start and end, in seconds.
      scores: of detections, the higher the surer; None for ground truth.
    """

    videos: Sequence[str]
    labels: Sequence[str]
    segments: Float[np.ndarray, "n 2"]
    scores: Float[np.ndarray, " n"] | None = None

    @classmethod
    def of(cls, rows: Iterable[tuple], scored: bool) -> "Instances":
        """From rows (video, label, start, end) or (video, label, start, end, score)."""
        columns = list(zip(*rows, strict=True)) or [()] * 5
        segments = np.array(columns[2:4], float).T.reshape(-1, 2)
        scores = np.array(columns[4], float) if scored else None
        return cls(columns[0], columns[1], segments, scores)


def read_ground_truth(path: PathLike, subset: str) -> tuple[Instances, frozenset[str]]:
    """The instances of one subset, and its videos, those without an instance too.

    Raises:
      UserError: the file cannot be read or is not of that form, naming the place in it; or it has
        no video of the subset.
    """
    database = _field(_read_json(path), "database", dict, str(path))
    rows, videos, subsets = [], [], set()
    for video, entry in database.items():
        place = f"{path}: database.{video}"
        _check(isinstance(entry, dict), place, entry, "an object with subset and annotations")
        subsets.add(_field(entry, "subset", str, place))
        if entry["subset"] != subset:
            continue
        videos.append(video)
        for number, annotation in enumerate(_field(entry, "annotations", list, place)):
            rows.append((video, *_instance(annotation, f"{place}.annotations[{number}]")))
    if not videos:
        raise UserError(
            f"{path}: found no video of the subset {subset!r}; its subsets are "
            f"{', '.join(sorted(map(repr, subsets))) or 'none'}"
        )
    return Instances.of(rows, scored=False), frozenset(videos)


def read_detections(path: PathLike) -> Instances:
    """The detections of all videos, in the order of the file.

    Raises:
      UserError: the file cannot be read or is not of that form, naming the place in it.
    """
    results = _field(_read_json(path), "results", dict, str(path))
    rows = []
    for video, entries in results.items():
        _check(isinstance(entries, list), f"{path}: results.{video}", entries, "a list")
        for number, entry in enumerate(entries):
            place = f"{path}: results.{video}[{number}]"
            label, start, end = _instance(entry, place)
            rows.append((video, label, start, end, _number(entry.get("score"), f"{place}.score")))
    return Instances.of(rows, scored=True)


def detections_file(detections: Mapping[str, Sequence[Mapping]]) -> dict[str, Any]:
    """What a file of detections holds, as the reference writes it.

    Args:
      detections: `{"label", "score", "segment"}` of each detection, by video.
    """
    return {"version": VERSION, "results": dict(detections), "external_data": {}}


def write_json(path: PathLike, content: Any) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    write_whole(Path(path), json.dumps(content))


def _read_json(path: PathLike) -> Any:
    def refuse(word: str) -> None:
        raise UserError(f"{path}: found {word}; wanted numbers that are finite; correct the file")

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}, column {error.colno}: is no JSON: {error.msg}"
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply; wanted ActivityNet's format") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: not readable as JSON ({reason}); check the path") from error
    _check(isinstance(content, dict), str(path), content, "one JSON object")
    return content


def _instance(entry: Any, place: str) -> tuple[str, float, float]:
    """(label, start, end) of an annotation or a detection."""
    _check(isinstance(entry, dict), place, entry, "an object with segment and label")
    label = _field(entry, "label", str, place)
    segment = _field(entry, "segment", list, place)
    _check(len(segment) == 2, f"{place}.segment", segment, "[start, end] in seconds")
    start, end = (_number(value, f"{place}.segment[{i}]") for i, value in enumerate(segment))
    _check(start <= end, f"{place}.segment", segment, "a start that is not after the end")
    return label, start, end


def _number(value: Any, place: str) -> float:
    """A finite number, written as one or as a string."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    _check(math.isfinite(number), place, value, "a finite number")
    return number


def _field(entry: Mapping[str, Any], name: str, kind: Any, place: str) -> Any:
    wanted = {dict: "an object", list: "a list", str: "a string"}[kind]
    separator = "." if ": " in place else ": "
    _check(name in entry, place, sorted(entry)[:5], f"a field {name!r}")
    _check(isinstance(entry[name], kind), f"{place}{separator}{name}", entry[name], wanted)
    return entry[name]


def _check(is_right: bool, place: str, found: Any, wanted: str) -> None:
    if not is_right:
        raise UserError(f"{place}: found {repr(found)[:80]}; wanted {wanted}; correct the file")
