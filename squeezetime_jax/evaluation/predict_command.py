"""`squeezetime predict` and `squeezetime features`: from words on the command line to results."""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax.checkpoint.store import load
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import inputs, live
from squeezetime_jax.evaluation.labels import class_names
from squeezetime_jax.evaluation.predict import (
    Prediction,
    Reading,
    predict_all,
    read_ahead,
    top,
)
from squeezetime_jax.evaluation.stream import Moment
from squeezetime_jax.evaluation.views import (
    PAPER,
    Network,
    RuntimeScorer,
    Sampling,
    Scorer,
    parse_views,
    sampling_of,
)
from squeezetime_jax.files import whole
from squeezetime_jax.memory import give_back_memory
from squeezetime_jax.model.squeezetime import MIN_SIDE, SqueezeTime


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What the command line asks of the network and its views.

    Attributes:
      checkpoint: anything that `squeezetime_jax.load` takes.
      views: "CLIPSxCROPS".
      size: side of the crops, in pixels; None: what the network was tested with.
      frame_interval: distance between a clip's frames; 0 spreads it over the video; None: what the
        network was tested with.
    """

    checkpoint: str
    views: str = PAPER
    size: int | None = None
    frame_interval: int | None = None

    def sampling(self, num_classes: int) -> Sampling:
        """Sizes of the views."""
        sampling = sampling_of(self.checkpoint, num_classes)
        if self.size is not None:
            side = round(self.size * sampling.one_crop_side / sampling.crop_size)
            sampling = dataclasses.replace(sampling, one_crop_side=side, crop_size=self.size)
        if self.frame_interval is not None:
            sampling = dataclasses.replace(sampling, frame_interval=self.frame_interval or None)
        return sampling

    def open(self) -> tuple[SqueezeTime, ViewProtocol]:
        """The network, and the views that it scores.

        Raises:
          UserError: the checkpoint cannot be loaded, or the views are not understood.
        """
        parse_views(self.views)  # before seconds are spent on the network
        if self.size is not None and self.size < MIN_SIDE:
            raise UserError(
                f"size: found {self.size} pixels; the network takes at least {MIN_SIDE}"
            )
        use_compilation_cache()
        model = load(self.checkpoint)
        sampling = self.sampling(model.config.num_classes)
        return model, sampling.protocol(self.views, model.config.num_frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A network outside JAX, and what it takes.

    Attributes:
      network: gives the logits of clips.
      sampling: sizes of its views.
      num_frames: of its clips.
      num_classes: of its logits.
      labels: class names, if it carries them.
    """

    network: Network
    sampling: Sampling
    num_frames: int
    num_classes: int
    labels: list[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Opened:
    """What scores, by which views, and what the classes are called; the model if there is one."""

    scorer: Scorer | RuntimeScorer
    protocol: ViewProtocol
    num_classes: int
    names: list[str] | None
    origin: str
    model: SqueezeTime | None = None

    @classmethod
    def checkpoint(cls, choices: Choices, labels: str | None, keep_model: bool) -> "_Opened":
        model, protocol = choices.open()
        num_classes = model.config.num_classes
        names, origin = class_names(num_classes, labels=labels, checkpoint=choices.checkpoint)
        return cls(
            scorer=Scorer(model),
            protocol=protocol,
            num_classes=num_classes,
            names=names,
            origin=origin,
            model=model if keep_model else None,
        )

    @classmethod
    def exported(cls, exported: Exported, choices: Choices, labels: str | None) -> "_Opened":
        size, taken = choices.size, exported.sampling.crop_size
        if size not in (None, taken):
            raise UserError(f"size: found {size} pixels; the exported network takes {taken} alone")
        sampling = exported.sampling
        if choices.frame_interval is not None:
            interval = choices.frame_interval or None
            sampling = dataclasses.replace(sampling, frame_interval=interval)
        names, origin = class_names(exported.num_classes, labels=labels)
        if exported.labels and not labels:
            names, origin = exported.labels, "the exported file"
        return cls(
            scorer=RuntimeScorer(exported.network),
            protocol=sampling.protocol(choices.views, exported.num_frames),
            num_classes=exported.num_classes,
            names=names,
            origin=origin,
        )


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
    """Predict videos and print what they show, each as soon as it is known.

    Args:
      words: as `inputs.expand` takes them, or one stream.
      choices: network and views.
      count: classes to name for each video.
      labels: a label map or a built-in set of names.
      as_json: a JSON object a line, for programs.
      save: a picture for one video, else a folder of pictures.
      exported: scores in the place of the checkpoint's network.

    Returns:
      The exit status: 1 if some video could not be read.
    """
    streams = [word for word in words if inputs.is_stream(word)]
    if streams and (len(words) > 1 or save):
        raise UserError(f"{streams[0]}: is a stream; wanted it alone, and without --save")
    if exported and save:
        raise UserError(
            f"{save}: pictures show the importance of frames, which an exported network does not"
            " tell; predict with the checkpoint"
        )
    paths: Iterator[str] = iter(()) if streams else _expand(words)
    if exported:
        opened = _Opened.exported(exported, choices, labels)
    else:
        opened = _Opened.checkpoint(choices, labels, keep_model=save is not None)
    give_back_memory()
    scorer, protocol = opened.scorer, opened.protocol
    teller = _Teller(opened.names, min(count, opened.num_classes), as_json)
    teller.note(f"views {choices.views}; class names from {opened.origin}")
    if streams:
        for moment in live.recognise(scorer, streams[0], protocol):
            teller.moment(streams[0], moment)
        return 0
    several = len(words) > 1 or not Path(words[0]).is_file()
    picture = _Pictures(opened.model, save, several) if save and opened.model else None
    failed = 0
    for prediction, reading in predict_all(scorer, read_ahead(paths, protocol)):
        failed += prediction.scores is None
        best = teller.prediction(prediction)
        if picture and best:
            teller.note(f"wrote {picture.draw(reading, protocol, best)}")
    return 1 if failed else 0


def write_features(words: Sequence[str], choices: Choices, out: Path) -> int:
    """Write the pooled features of videos as an npz: `features` (videos, channels), `paths`.

    Returns:
      The exit status: 1 if some video could not be read; the file then holds the others.

    Raises:
      UserError: no video could be read, or the file cannot be written.
    """
    if out.suffix != ".npz":
        raise UserError(f"{out}: is not named like NumPy's archives; wanted a name ending in .npz")
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
        raise UserError(f"{out}: not written, for no video could be read")
    with whole(out) as part, part.open("wb") as file:
        np.savez(
            file,
            features=np.stack(list(found.values())),
            paths=np.array(list(found)),
            views=np.array(choices.views),
        )
    shape = (len(found), scorer.config.feature_channels)
    print(f"wrote {out}: features {shape}, the mean over {choices.views} views of each video")
    return 1 if failed else 0


class _Teller:
    """Prints results as they come: a table for people, or JSON lines for programs."""

    def __init__(self, names: list[str] | None, count: int, as_json: bool) -> None:
        self._names, self._count, self._as_json = names, count, as_json

    def note(self, text: str) -> None:
        """A remark for people."""
        if not self._as_json:
            print(text, file=sys.stderr)

    def prediction(self, prediction: Prediction) -> list[dict[str, Any]]:
        """One video; returns its best classes."""
        if prediction.scores is None:
            if self._as_json:
                _print_json({"path": prediction.path, "error": prediction.error})
            else:
                print(f"squeezetime predict: {prediction.error}", file=sys.stderr)
            return []
        best = top(prediction.scores, self._names, self._count)
        views, seconds = prediction.num_views, round(prediction.seconds, 3)
        if self._as_json:
            _print_json({"path": prediction.path, "top": best, "views": views, "seconds": seconds})
        else:
            plural = "" if views == 1 else "s"
            print(f"{prediction.path}  ({views} view{plural}, {seconds:.1f} s)")
            _print_table(best)
        return best

    def moment(self, location: str, moment: Moment) -> None:
        """One moment of a stream."""
        best = top(moment.scores, self._names, self._count)
        if self._as_json:
            seconds = round(moment.seconds, 3)
            _print_json({"path": location, "seconds": seconds, "top": best, "views": 1})
        else:
            entries = "   ".join(f"{100 * e['score']:5.1f} % {_called(e)}" for e in best)
            print(f"{moment.seconds:7.1f} s   {entries}", flush=True)


class _Pictures:
    """Draws a picture of each prediction."""

    def __init__(self, model: SqueezeTime, target: Path, several: bool) -> None:
        from squeezetime_jax.evaluation import pictures  # Matplotlib takes a second to import

        is_picture = target.suffix.lower() in pictures.PICTURE_SUFFIXES
        if several and is_picture:
            raise UserError(f"{target}: is one picture for several videos; give a folder's name")
        self._model, self._target = model, target
        self._is_folder = several or not is_picture
        self._drawn: set[str] = set()

    def draw(self, reading: Reading, protocol: ViewProtocol, best: list[dict[str, Any]]) -> Path:
        """Draw a video's middle clip, its classes and what each frame says of the best."""
        from squeezetime_jax.evaluation import explain, pictures

        assert reading.views is not None
        middle = reading.views[len(reading.views) - protocol.num_clips + protocol.num_clips // 2]
        importance = explain.frame_importance(self._model, middle, best[0]["index"])
        figure = pictures.draw_prediction(Path(reading.path).name, middle, best, importance)
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
    """The paths that words mean; what is wrong with the first is told before the network loads."""
    paths = inputs.expand(words, sys.stdin)
    first = next(paths, None)
    if first is None:
        raise UserError("standard input named no video; wanted a path per line")
    if len(words) == 1 and not os.path.exists(first):
        raise UserError(f"{first}: no such file; check the path")
    return itertools.chain([first], paths)


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _print_table(best: list[dict[str, Any]]) -> None:
    for entry in best:
        print(f"  {100 * entry['score']:6.2f} %  {_called(entry)}")
    sys.stdout.flush()


def _called(entry: dict[str, Any]) -> str:
    return entry["label"] or f"class {entry['index']}"
