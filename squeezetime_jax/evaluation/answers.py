"""Answers to videos: printed as they come, and drawn."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import stream
from squeezetime_jax.evaluation.reading import Reading


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The scores of a video, or why there are none.

    Attributes:
      reading: the video's path and views, or the error.
      scores: (classes,), the mean over the views, summing to 1; None if it cannot be read.
      seconds: from the request for the video to its scores.
    """

    reading: Reading
    scores: Float[np.ndarray, " classes"] | None = None
    seconds: float = 0.0


def top(
    scores: Float[np.ndarray, " classes"], names: list[str] | None, count: int
) -> list[dict[str, Any]]:
    """The most probable classes, in falling order, as `{"index", "label", "score"}`.

    Without names, each label is None.
    """
    best = np.argsort(-scores, kind="stable")[:count]
    return [
        {"index": int(k), "label": names[k] if names else None, "score": float(scores[k])}
        for k in best
    ]


class Printer:
    """Prints results as they come: a table for people, or JSON lines for programs."""

    def __init__(self, names: list[str] | None, count: int, as_json: bool) -> None:
        self.names, self.count, self._as_json = names, count, as_json
        self.several = False  # whether moments of several videos may take turns

    def note(self, text: str) -> None:
        """Print a remark for people."""
        if not self._as_json:
            print(text, file=sys.stderr)

    def fields(self, prediction: Prediction) -> dict[str, Any]:
        """The JSON object of a video."""
        reading = prediction.reading
        if prediction.scores is None or reading.views is None:
            return {"path": reading.path, "error": reading.error}
        best = top(prediction.scores, self.names, self.count)
        seconds = round(prediction.seconds, 3)
        return {"path": reading.path, "top": best, "views": len(reading.views), "seconds": seconds}

    def prediction(self, prediction: Prediction) -> list[dict[str, Any]]:
        """Print the best classes of a video, and return them."""
        reading = prediction.reading
        if prediction.scores is None or reading.views is None:
            self.error(reading)
            return []
        best = top(prediction.scores, self.names, self.count)
        views, seconds = len(reading.views), round(prediction.seconds, 3)
        if self._as_json:
            _print_json(self.fields(prediction))
        else:
            plural = "" if views == 1 else "s"
            print(f"{reading.path}  ({views} view{plural}, {seconds:.1f} s)")
            for entry in best:
                print(f"  {100 * entry['score']:6.2f} %  {_name(entry)}")
            sys.stdout.flush()
        return best

    def error(self, reading: Reading) -> None:
        """Print why a video cannot be read."""
        if self._as_json:
            _print_json({"path": reading.path, "error": reading.error})
        else:
            print(f"squeezetime predict: {reading.error}", file=sys.stderr)

    def moment(self, location: str, moment: stream.Moment) -> None:
        """Print the best classes of a moment of a stream."""
        best = top(moment.scores, self.names, self.count)
        if self._as_json:
            seconds = round(moment.seconds, 3)
            _print_json({"path": location, "seconds": seconds, "top": best, "views": 1})
        else:
            entries = "   ".join(f"{100 * e['score']:5.1f} % {_name(e)}" for e in best)
            name = f"{Path(location).name}  " if self.several else ""
            print(f"{name}{moment.seconds:7.1f} s   {entries}", flush=True)


class Pictures:
    """Draws a picture of each prediction."""

    def __init__(self, model: Any, target: Path, several: bool) -> None:
        from squeezetime_jax.evaluation import pictures  # Matplotlib takes a second to import

        is_picture = target.suffix.lower() in pictures.PICTURE_SUFFIXES
        if several and is_picture:
            raise UserError(f"--save {target}: one picture for several videos; give a folder")
        self._model, self._target = model, target
        self._is_folder = several or not is_picture
        self._drawn: set[str] = set()

    def draw(self, reading: Reading, protocol: ViewProtocol, best: list[dict[str, Any]]) -> Path:
        """Draw a video's middle clip, its best classes, and the importance of frames."""
        from squeezetime_jax.evaluation import explain, pictures

        assert reading.views is not None
        middle = reading.views[len(reading.views) - protocol.num_clips + protocol.num_clips // 2]
        importance = explain.frame_importance(self._model, middle, best[0]["index"])
        figure = pictures.draw_prediction(
            Path(reading.path).name, middle, best, importance, reading.seconds
        )
        return pictures.save_figure(figure, self._path(reading.path))

    def _path(self, video: str) -> Path:
        if not self._is_folder:
            return self._target
        stem = Path(video).stem
        count = sum(name == stem or name.startswith(f"{stem}-") for name in self._drawn)
        name = f"{stem}-{count + 1}" if count else stem
        self._drawn.add(name)
        return self._target / f"{name}.png"


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _name(entry: dict[str, Any]) -> str:
    return entry["label"] or f"class {entry['index']}"
