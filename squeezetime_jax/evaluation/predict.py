"""Scores of videos without labels: for a Python call, and `squeezetime predict`."""

import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from squeezetime_jax.checkpoint.input import input_of
from squeezetime_jax.checkpoint.store import load
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data import transforms, workers
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.video import Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import bulk, inputs, stream
from squeezetime_jax.evaluation.answers import Pictures, Prediction, Printer
from squeezetime_jax.evaluation.labels import class_names
from squeezetime_jax.evaluation.reading import (
    Reading,
    Step,
    in_batches,
    read_ahead,
    read_videos,
    read_windows,
)
from squeezetime_jax.evaluation.views import (
    PAPER,
    Network,
    RuntimeScorer,
    Sampling,
    Scorer,
    parse_views,
    published_views,
)
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


def predict_all(
    scorer: Scorer | RuntimeScorer, readings: Iterable[Reading], at_once: int = 1
) -> Iterator[Prediction]:
    """Score videos in order; an unreadable one gets its prediction too, with the error.

    Args:
      scorer: the network.
      readings: the videos.
      at_once: how many are scored at once.
    """
    begin = time.monotonic()
    rows = ((reading, reading.views) for reading in readings)
    for reading, scores in in_batches(rows, scorer.scores, at_once):
        yield Prediction(reading, scores, time.monotonic() - begin)
        begin = time.monotonic()


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is written of the scores.

    Attributes:
      count: classes of each video or window.
      labels: a label map or a built-in set of names.
      as_json: print a JSON object a line, for programs.
      save: a picture for one video, else a folder of pictures; with `every`, of timelines.
      out: a file to which a JSON line of each video is appended, instead of printing it; videos
        that have one are left out.
      every: score windows at this step, as `reading.Step.parse` takes it.
      workers: decoding processes; 0: none; None: one per processor where there are many videos.
      shard: the share of this host, as `bulk.parse_shard` takes it.
    """

    count: int = 5
    labels: str | None = None
    as_json: bool = False
    save: Path | None = None
    out: Path | None = None
    every: str | None = None
    workers: int | None = None
    shard: str | None = None


def predict_videos(
    words: Sequence[str],
    choices: Choices,
    request: Request,
    exported: Exported | None = None,
) -> int:
    """Score videos and print their best classes, each as soon as it is scored.

    Args:
      words: as `inputs.expand` takes them, or one stream.
      choices: network and views.
      request: what is written.
      exported: the network, in the place of the checkpoint's.

    Returns:
      The exit status: 1 if a video could not be read.

    Raises:
      UserError: an option is invalid, or a file that it names cannot be used.
    """
    streams = [word for word in words if inputs.is_stream(word)]
    step = Step.parse(request.every) if request.every else None
    save = request.save
    if streams and (len(words) > 1 or save or request.out or step):
        raise UserError(
            f"{streams[0]}: a stream is predicted by itself; give no other video, no --save, no"
            " --out and no --every"
        )
    if step:
        choices = dataclasses.replace(choices, views="1x1")
    given: Iterator[str] = iter(()) if streams else expand(words)
    # Paths on standard input are answered as they come, unless their number matters.
    waits = inputs.STANDARD_INPUT in words and not (request.out or request.shard)
    paths = None if waits else bulk.share(list(given), request.shard)
    picture = None
    scorer: Scorer | RuntimeScorer
    if exported:
        if save and not step:
            raise UserError(
                f"--save {save}: pictures show the importance of frames, which exported networks"
                " do not give; predict with the checkpoint"
            )
        scorer, protocol = RuntimeScorer(exported.network), _protocol(exported, choices)
        names, origin = class_names(exported.num_classes, labels=request.labels)
        if exported.labels and not request.labels:
            names, origin = exported.labels, "the exported file"
    else:
        model, protocol = choices.open()
        names, origin = class_names(
            model.config.num_classes, labels=request.labels, checkpoint=choices.checkpoint
        )
        scorer = Scorer(model)
        if save and not step:
            picture = Pictures(model, save, len(words) > 1 or not Path(words[0]).is_file())
        del model
    give_back_memory()
    printer = Printer(names, request.count, request.as_json)
    views = f"{protocol.num_clips}x{protocol.num_crops}"
    printer.note(f"views {views}; class names from {origin}")
    if streams:
        for moment in stream.recognise(scorer, streams[0], protocol):
            printer.moment(streams[0], moment)
        return 0
    if step:
        from squeezetime_jax.evaluation import timeline

        if step.in_frames:
            protocol = dataclasses.replace(protocol, target_fps=None)
        videos = list(given) if paths is None else paths
        windows = read_windows(videos, protocol, step, request.workers)
        printer.several = len(videos) > 1
        return timeline.predict_timelines(scorer, windows, printer, save, several=len(videos) > 1)
    if paths is None:
        readings, at_once = read_ahead(given, protocol), 1
    else:
        results = _open_results(request, choices, protocol)
        left = [path for path in paths if not (results and path in results.done)]
        readings = read_videos(left, protocol, request.workers)
        at_once = min(scorer.videos_at_once(protocol.num_views), len(left))
        if results:
            return _append(results, predict_all(scorer, readings, at_once), printer, len(paths))
    failed = 0
    for prediction in predict_all(scorer, readings, at_once):
        failed += prediction.scores is None
        best = printer.prediction(prediction)
        if picture and best:
            printer.note(f"wrote {picture.draw(prediction.reading, protocol, best)}")
    return 1 if failed else 0


def _open_results(
    request: Request, choices: Choices, protocol: ViewProtocol
) -> bulk.ResultsFile | None:
    if request.out is None:
        return None
    settings = {"checkpoint": choices.checkpoint, "top": request.count, **vars(protocol)}
    return bulk.ResultsFile(bulk.name_of_share(request.out, request.shard), settings)


def _append(
    results: bulk.ResultsFile, predictions: Iterable[Prediction], printer: "Printer", total: int
) -> int:
    """Append the results of many videos to a file, with a progress bar."""
    failed = 0
    with workers.progress_bar("predict", total) as progress, contextlib.closing(results):
        progress(len(results.done))
        for prediction in predictions:
            failed += prediction.scores is None
            results.add(printer.fields(prediction))
            progress(1)
    return 1 if failed else 0


def _protocol(exported: Exported, choices: Choices) -> ViewProtocol:
    side = exported.sampling.crop_size
    if choices.size not in (None, side):
        raise UserError(f"--size {choices.size}: the exported network takes {side} pixels only")
    sampling = choices.sampling(exported.sampling)
    return sampling.protocol(choices.views or exported.views, exported.num_frames)


def expand(words: Sequence[str]) -> Iterator[str]:
    """The paths that words stand for; an error in the first is raised before the network loads."""
    paths = inputs.expand(words, sys.stdin)
    first = next(paths, None)
    if first is None:
        raise UserError("standard input: found no path; expected one a line")
    if len(words) == 1 and not os.path.exists(first):
        raise UserError(f"{first}: no such file; check the path")
    return itertools.chain([first], paths)
