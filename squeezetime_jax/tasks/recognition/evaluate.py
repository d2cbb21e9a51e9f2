"""`squeezetime eval`: the accuracy of a checkpoint on labelled videos."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from squeezetime_jax.checkpoint.store import load
from squeezetime_jax.compilation import use_compilation_cache
from squeezetime_jax.data.sources import Source, open_source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.labels import class_names
from squeezetime_jax.evaluation.views import PAPER, Sampling, sampling_of
from squeezetime_jax.tasks.recognition import recognize, videos
from squeezetime_jax.tasks.recognition.recognize import Evaluation
from squeezetime_jax.training import config, devices, run
from squeezetime_jax.training.plan import Data, Experiment

_VIEWS_AT_ONCE = 64  # on each device: what a batch of videos comes to when nothing is said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to evaluate, and on what.

    Attributes:
      checkpoint: anything that `squeezetime_jax.load` takes.
      config: what `training.config.read` gives; None: no config.
      videos: annotation list, folder or data set; None: the config's test videos.
      root: what the list's paths are relative to.
      split: of a data set of several splits.
      labels: label map, or a built-in set of names.
      views: "CLIPSxCROPS"; None: the config's, or the paper's.
      batch_size: videos at once, on all devices together; None: as the views allow.
      workers: decoding processes on each host; None: the config's, or threads.
      skip_unreadable: whether to leave out videos that cannot be read.
    """

    checkpoint: str
    config: Any = None
    videos: str | None = None
    root: str | None = None
    split: str | None = None
    labels: str | None = None
    views: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    skip_unreadable: bool = False


def evaluate(
    request: Request, *, as_json: bool = False, scores: Path | None = None, save: Path | None = None
) -> int:
    """Evaluate and print.

    Args:
      request: what to evaluate.
      as_json: one JSON object instead of the table.
      scores: npz file for every video's scores.
      save: picture of the confusion matrix.

    Returns:
      The exit status.

    Raises:
      UserError: something is not there, or does not fit, or videos cannot be read.
    """
    experiment, source = _open(request)
    use_compilation_cache()
    model = load(request.checkpoint)
    names, _ = class_names(
        model.config.num_classes, labels=request.labels, checkpoint=request.checkpoint
    )
    names = list(source.class_names) or names
    protocol = _protocol(request, experiment, model.config.num_frames, model.config.num_classes)
    mesh = devices.data_mesh()
    most = max(_VIEWS_AT_ONCE // protocol.num_views, 1) * mesh.size
    workers = request.workers
    with progress_bar("evaluating", len(source)) as progress:
        result = recognize.evaluate(
            model,
            source,
            protocol,
            mesh=mesh,
            batch_size=request.batch_size or most,
            workers=experiment.data.workers if workers is None and experiment else workers or 0,
            skip_unreadable=request.skip_unreadable,
            progress=progress,
        )
    if devices.is_main():
        summary = _summary(request, result, protocol, experiment)
        print(json.dumps(summary) if as_json else _table(summary, result, names), flush=True)
        _write(result, source, names, scores, save)
    return 0


def _open(request: Request) -> tuple[Experiment | None, Source]:
    """The config, if there is one, and the videos."""
    fields = request.config
    source: Source | None = None
    if request.videos:
        label_map = request.labels if request.labels and Path(request.labels).is_file() else None
        source = open_source(
            request.videos, root=request.root, split=request.split, label_map=label_map
        )
    elif fields is None:
        raise UserError(
            "no videos given; expected --config FILE or --videos VIDEOS (and --root for a list)"
        )
    else:
        folder = run.folder_of(request.checkpoint) / "videos"
        source = _test_videos(config.parse_data(fields), folder)
    if fields is None:
        return None, source
    config.fill_in(fields, len(source), source.num_classes)
    return config.parse(fields), source


def _test_videos(data: Data, folder: Path) -> Source:
    """The config's test videos alone: the training videos need not be on this machine."""
    if data.train != videos.MOTION:
        if not data.test:
            raise UserError(
                "config: data.test is empty; give --config.data.test=VIDEOS or --videos VIDEOS"
            )
        root, split = data.test_root or data.root, data.test_split
        data = dataclasses.replace(data, train=data.test, root=root, train_split=split, test="")
    sources = videos.open_sources(data, folder)
    return sources.test or sources.train


def _protocol(
    request: Request, experiment: Experiment | None, num_frames: int, num_classes: int
) -> ViewProtocol:
    if experiment is None:
        sampling = sampling_of(request.checkpoint, num_classes)
        return sampling.protocol(request.views or PAPER, num_frames)
    wanted = dataclasses.replace(videos.view_protocol(experiment), num_frames=num_frames)
    if request.views is None or request.views == f"{wanted.num_clips}x{wanted.num_crops}":
        return wanted
    sampling = Sampling.of(wanted)
    return sampling.protocol(request.views, num_frames)


def _summary(
    request: Request, result: Evaluation, protocol: ViewProtocol, experiment: Experiment | None
) -> dict[str, Any]:
    views = f"{protocol.num_clips}x{protocol.num_crops}"
    summary: dict[str, Any] = {
        "checkpoint": request.checkpoint,
        **result.compute(),
        "videos": len(result.labels),
        "skipped": result.num_skipped,
        "views": views,
        "short_side": protocol.short_side,
        "crop_size": protocol.crop_size,
        "frames": f"{protocol.num_frames}x{protocol.frame_interval or 'uniform'}",
        "devices": jax.device_count(),
    }
    if experiment is not None and experiment.published.top1:
        summary["published"] = dataclasses.asdict(experiment.published)
    return summary


def _table(summary: Mapping[str, Any], result: Evaluation, names: Sequence[str] | None) -> str:
    lines = []
    rows = recognize.per_class(result.accuracy)
    if len(rows) > 1:
        lines.append("  top-1    videos  class, worst first")
        lines += [
            f"{100 * share:6.2f} %  {videos:7}  {names[k] if names else f'class {k}'}"
            for k, videos, share in rows
        ]
    skipped = f", {summary['skipped']} unreadable ones skipped" if summary["skipped"] else ""
    clips, crops = summary["views"].split("x")
    lines.append(
        f"{summary['videos']} videos{skipped}; {clips} clips x {crops} crops of"
        f" {summary['crop_size']} pixels, frames {summary['frames']}, mean of the softmax"
    )
    lines.append(
        f"top-1 {_percent(summary['top1'])}   top-5 {_percent(summary['top5'])}"
        f"   mean class {_percent(summary['mean_class'])}"
    )
    if "published" in summary:
        lines.append(_comparison(summary, summary["published"]))
    return "\n".join(lines)


def _comparison(summary: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    gap = 100 * (summary["top1"] - published["top1"])
    text = f"{published['source']}: top-1 {_percent(published['top1'])}"
    if published["top5"]:
        text += f"   top-5 {_percent(published['top5'])}"
    text += f"; here {gap:+.2f} points of top-1"
    if published["views"] and published["views"] != summary["views"]:
        text += f" (theirs is with views {published['views']})"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _write(
    result: Evaluation,
    source: Source,
    names: Sequence[str] | None,
    scores: Path | None,
    save: Path | None,
) -> None:
    for reason in result.unreadable.values():
        print(f"skipped: {reason}", file=sys.stderr)
    if scores is not None:
        recognize.save_scores(scores, result, source, names)
        print(f"wrote {scores}", file=sys.stderr)
    if save is not None:
        from squeezetime_jax.evaluation import pictures

        pictures.save_figure(pictures.draw_confusion(result.confusion(), names), save)
        print(f"wrote {save}", file=sys.stderr)
