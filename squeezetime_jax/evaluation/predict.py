"""Scores of videos without labels: for a Python call, `squeezetime predict` and `features`."""

import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.checkpoint.input import input_of
from squeezetime_jax.checkpoint.store import load
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data import transforms
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.video import Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import inputs, stream
from squeezetime_jax.evaluation.labels import class_names
from squeezetime_jax.evaluation.views import (
    PAPER,
    Network,
    RuntimeScorer,
    Sampling,
    Scorer,
    parse_views,
    published_views,
)
from squeezetime_jax.files import whole
from squeezetime_jax.machine import available_cpus, give_back_memory
from squeezetime_jax.model.squeezetime import MIN_SIDE

PathLike = str | os.PathLike[str]


def predict(
    model: Any,
    video: PathLike | bytes,
    *,
    views: str | None = None,
    sampling: Sampling | None = None,
) -> Float[np.ndarray, " classes"]:
    """Score a video: the mean over its views of the softmax.

    Examples:
      >>> import squeezetime_jax as st
      >>> from flax import nnx
      >>> from squeezetime_jax.data.embedded.scenes import encode
      >>> import numpy as np
      >>> encode("noise.mp4", np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8))
      >>> model = st.SqueezeTime(st.SqueezeTimeConfig.tiny(), nnx.Rngs(0))
      >>> model.eval()
      >>> scores = st.predict(model, "noise.mp4", views="1x1")
      >>> scores.shape, bool(abs(scores.sum() - 1) < 1e-5)
      ((8,), True)

    Args:
      model: a network of the register, in evaluation mode.
      video: a path, or the bytes of a video file.
      views: clips and crops, "CLIPSxCROPS" with 1, 3 or 10 crops. By default those of the network's
        published test, for SqueezeTime "10x3"; "1x1" is the fast one. A program is compiled for
        each number of views.
      sampling: sizes of the views and the frame interval; by default those that the network
        expects: those of its training run if `st.load` found them, else the published ones.

    Returns:
      One probability per class.

    Raises:
      VideoError: the video cannot be read.
      UserError: `views` is invalid.
    """
    sampling = sampling or Sampling.of_input(input_of(model))
    protocol = sampling.protocol(views or published_views(model), model.config.num_frames)
    return np.asarray(Scorer(model).scores(read_views(video, protocol)[None])[0])


def read_views(
    video: PathLike | bytes, protocol: ViewProtocol
) -> UInt8[np.ndarray, "views t size size 3"]:
    """The views of a video file, which is closed again.

    Raises:
      VideoError: it cannot be read.
    """
    with Video(video, threads=available_cpus()) as opened:
        return transforms.views(opened, protocol)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The views of a video, or why there are none.

    Attributes:
      path: as the user gave it.
      views: (views, t, size, size, 3), 0..255; None if the video cannot be read.
      error: the reason, in one line.
      seconds: time of each frame of the middle clip.
    """

    path: str
    views: UInt8[np.ndarray, "views t h w 3"] | None
    error: str = ""
    seconds: Float[np.ndarray, " t"] | None = None


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


def read_ahead(paths: Iterable[str], protocol: ViewProtocol) -> Iterator[Reading]:
    """Read videos in order, each while the one before is scored."""
    readings = (_read(path, protocol) for path in paths)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, readings, None)
        while (reading := coming.result()) is not None:
            coming = pool.submit(next, readings, None)
            yield reading


def _read(path: str, protocol: ViewProtocol) -> Reading:
    try:
        with Video(path, threads=available_cpus()) as video:
            views = transforms.views(video, protocol)
            return Reading(path, views, seconds=_middle_clip(video, protocol))
    except UserError as error:
        return Reading(path, None, str(error))


def _middle_clip(video: Video, protocol: ViewProtocol) -> Float[np.ndarray, " t"]:
    """When the frames of the middle clip are shown, in seconds."""
    clips = protocol.indices(transforms.at_rate(video, protocol.target_fps).num_frames)
    frames = clips[protocol.num_clips // 2]
    return frames / protocol.target_fps if protocol.target_fps else video.times[frames]


def predict_all(
    scorer: Scorer | RuntimeScorer, readings: Iterable[Reading]
) -> Iterator[Prediction]:
    """Score videos in order; an unreadable one gets its prediction too, with the error."""
    begin = time.monotonic()
    for reading in readings:
        if reading.views is None:
            yield Prediction(reading)
        else:
            scores = np.asarray(scorer.scores(reading.views[None])[0])
            yield Prediction(reading, scores, time.monotonic() - begin)
        begin = time.monotonic()


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of the command line about the network and its views.

    Attributes:
      checkpoint: anything that `squeezetime_jax.load` takes.
      views: "CLIPSxCROPS"; None: those of the network's published test.
      size: side of the crops, in pixels; None: the checkpoint's.
      frame_interval: distance between a clip's frames; 0 spreads the clip over the video; None: the
        checkpoint's.
      fps: take clips in time, as if videos had so many frames per second; 0 counts frames; None:
        the checkpoint's.
    """

    checkpoint: str
    views: str | None = None
    size: int | None = None
    frame_interval: int | None = None
    fps: float | None = None

    def sampling(self, sampling: Sampling) -> Sampling:
        """A network's sizes of views, with the chosen size and interval."""
        if self.size is not None:
            side = round(self.size * sampling.one_crop_side / sampling.crop_size)
            sampling = dataclasses.replace(sampling, one_crop_side=side, crop_size=self.size)
        if self.frame_interval is not None:
            sampling = dataclasses.replace(sampling, frame_interval=self.frame_interval or None)
        if self.fps is not None:
            sampling = dataclasses.replace(sampling, fps=self.fps or None)
        return sampling

    def open(self) -> tuple[Any, ViewProtocol]:
        """The network, and the views that it scores.

        Raises:
          UserError: the checkpoint cannot be loaded, or the views are invalid.
        """
        parse_views(self.views or PAPER)  # before seconds are spent on the network
        if self.size is not None and self.size < MIN_SIDE:
            raise UserError(f"--size {self.size}: the network takes at least {MIN_SIDE} pixels")
        use_compilation_cache()
        model = load(self.checkpoint)
        sampling = self.sampling(Sampling.of_input(input_of(model)))
        views = self.views or published_views(model)
        return model, sampling.protocol(views, model.config.num_frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported network.

    Attributes:
      network: gives the logits of clips.
      sampling: sizes of its views.
      num_frames: of its clips.
      num_classes: of its logits.
      views: of its network's published test.
      labels: class names, if the file has them.
    """

    network: Network
    sampling: Sampling
    num_frames: int
    num_classes: int
    views: str = PAPER
    labels: list[str] | None = None


def predict_videos(
    words: Sequence[str],
    choices: Choices,
    *,
    count: int = 5,
    labels: str | None = None,
    as_json: bool = False,
    save: Path | None = None,
    exported: Exported | None = None,
) -> int:
    """Score videos and print their best classes, each as soon as it is scored.

    Args:
      words: as `inputs.expand` takes them, or one stream.
      choices: network and views.
      count: classes to print for each video.
      labels: a label map or a built-in set of names.
      as_json: print a JSON object a line, for programs.
      save: a picture for one video, else a folder of pictures.
      exported: the network, in the place of the checkpoint's.

    Returns:
      The exit status: 1 if a video could not be read.

    Raises:
      UserError: an option is invalid, or a file that it names cannot be used.
    """
    streams = [word for word in words if inputs.is_stream(word)]
    if streams and (len(words) > 1 or save):
        raise UserError(
            f"{streams[0]}: a stream is predicted by itself; give no other video and no --save"
        )
    paths: Iterator[str] = iter(()) if streams else _expand(words)
    picture = None
    scorer: Scorer | RuntimeScorer
    if exported:
        if save:
            raise UserError(
                f"--save {save}: pictures show the importance of frames, which exported networks"
                " do not give; predict with the checkpoint"
            )
        scorer, protocol = RuntimeScorer(exported.network), _protocol(exported, choices)
        names, origin = class_names(exported.num_classes, labels=labels)
        if exported.labels and not labels:
            names, origin = exported.labels, "the exported file"
    else:
        model, protocol = choices.open()
        names, origin = class_names(
            model.config.num_classes, labels=labels, checkpoint=choices.checkpoint
        )
        scorer = Scorer(model)
        if save:
            picture = _Pictures(model, save, len(words) > 1 or not Path(words[0]).is_file())
        del model
    give_back_memory()
    printer = _Printer(names, count, as_json)
    printer.note(f"views {protocol.num_clips}x{protocol.num_crops}; class names from {origin}")
    for moment in stream.recognise(scorer, streams[0], protocol) if streams else ():
        printer.moment(streams[0], moment)
    failed = 0
    for prediction in predict_all(scorer, read_ahead(paths, protocol)):
        failed += prediction.scores is None
        best = printer.prediction(prediction)
        if picture and best:
            printer.note(f"wrote {picture.draw(prediction.reading, protocol, best)}")
    return 1 if failed else 0


def _protocol(exported: Exported, choices: Choices) -> ViewProtocol:
    side = exported.sampling.crop_size
    if choices.size not in (None, side):
        raise UserError(f"--size {choices.size}: the exported network takes {side} pixels only")
    sampling = choices.sampling(exported.sampling)
    return sampling.protocol(choices.views or exported.views, exported.num_frames)


def write_features(words: Sequence[str], choices: Choices, out: Path) -> int:
    """Write the pooled features of videos as an npz: `features` (videos, channels), `paths`.

    Returns:
      The exit status: 1 if a video could not be read; the file then holds the others.

    Raises:
      UserError: no video could be read, or the file cannot be written.
    """
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: expected a name that ends in .npz, NumPy's archives")
    paths = list(_expand(words))
    model, protocol = choices.open()
    scorer = Scorer(model)
    del model
    give_back_memory()
    found: dict[str, np.ndarray] = {}
    failed = 0
    for reading in read_ahead(paths, protocol):
        if reading.views is None:
            failed += 1
            print(f"squeezetime features: {reading.error}", file=sys.stderr)
        else:
            found[reading.path] = np.asarray(scorer.features(reading.views[None])[0])
            print(f"{len(found)}/{len(paths)} {reading.path}", file=sys.stderr)
    if not found:
        raise UserError(f"{out}: not written, because no video could be read")
    features = np.stack(list(found.values()))
    views = f"{protocol.num_clips}x{protocol.num_crops}"
    with whole(out) as part, part.open("wb") as file:
        np.savez(file, features=features, paths=np.array(list(found)), views=np.array(views))
    print(f"wrote {out}: features {features.shape}, the mean over {views} views of each video")
    return 1 if failed else 0


class _Printer:
    """Prints results as they come: a table for people, or JSON lines for programs."""

    def __init__(self, names: list[str] | None, count: int, as_json: bool) -> None:
        self._names, self._count, self._as_json = names, count, as_json

    def note(self, text: str) -> None:
        """Print a remark for people."""
        if not self._as_json:
            print(text, file=sys.stderr)

    def prediction(self, prediction: Prediction) -> list[dict[str, Any]]:
        """Print the best classes of a video, and return them."""
        reading = prediction.reading
        if prediction.scores is None or reading.views is None:
            if self._as_json:
                _print_json({"path": reading.path, "error": reading.error})
            else:
                print(f"squeezetime predict: {reading.error}", file=sys.stderr)
            return []
        best = top(prediction.scores, self._names, self._count)
        views, seconds = len(reading.views), round(prediction.seconds, 3)
        if self._as_json:
            _print_json({"path": reading.path, "top": best, "views": views, "seconds": seconds})
        else:
            plural = "" if views == 1 else "s"
            print(f"{reading.path}  ({views} view{plural}, {seconds:.1f} s)")
            for entry in best:
                print(f"  {100 * entry['score']:6.2f} %  {_name(entry)}")
            sys.stdout.flush()
        return best

    def moment(self, location: str, moment: stream.Moment) -> None:
        """Print the best classes of a moment of a stream."""
        best = top(moment.scores, self._names, self._count)
        if self._as_json:
            seconds = round(moment.seconds, 3)
            _print_json({"path": location, "seconds": seconds, "top": best, "views": 1})
        else:
            entries = "   ".join(f"{100 * e['score']:5.1f} % {_name(e)}" for e in best)
            print(f"{moment.seconds:7.1f} s   {entries}", flush=True)


class _Pictures:
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


def _expand(words: Sequence[str]) -> Iterator[str]:
    """The paths that words stand for; an error in the first is raised before the network loads."""
    paths = inputs.expand(words, sys.stdin)
    first = next(paths, None)
    if first is None:
        raise UserError("standard input: found no path; expected one a line")
    if len(words) == 1 and not os.path.exists(first):
        raise UserError(f"{first}: no such file; check the path")
    return itertools.chain([first], paths)


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _name(entry: dict[str, Any]) -> str:
    return entry["label"] or f"class {entry['index']}"
