"""`squeezetime export`: writes a file, compares it with the network, and prints what was found."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from squeezetime_jax.data.batches import ordered_batches, unreadable_error
from squeezetime_jax.data.lists import read_list
from squeezetime_jax.data.sources import Source, open_source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError, count
from squeezetime_jax.evaluation import inputs
from squeezetime_jax.evaluation.labels import class_names, network_classes
from squeezetime_jax.evaluation.predict import Choices
from squeezetime_jax.evaluation.reading import read_ahead
from squeezetime_jax.export import formats
from squeezetime_jax.export.check import Check, compare, reference
from squeezetime_jax.export.manifest import Clips, manifest_path
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import ExportReport, check_arguments, export, spread
from squeezetime_jax.tasks.recognition.scores import TestVideos
from squeezetime_jax.tasks.recognition.videos import match_test

_LISTS = (".txt", ".csv")
_TEST_BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to export, and what to measure.

    Attributes:
      checkpoint: anything that `squeezetime_jax.load` takes.
      format: name of the file's format.
      dtype: type that the file computes in.
      out: the file; None: named after checkpoint, type and format, in the working directory.
      size: side of the clips, in pixels; None: what the network was tested with.
      uint8: whether clips enter as 0..255.
      calibrate: videos for int8 and for the comparison: files, folders, patterns, or one list.
      num_clips: how many of them are used at most.
      videos: labelled videos to measure the accuracy on: a list, a folder per class, shards.
      root: folder that the paths of lists are relative to.
      split: of shards.
      labels: label map, or a built-in set of names.
    """

    checkpoint: str
    format: str
    dtype: str = "float32"
    out: str | None = None
    size: int | None = None
    uint8: bool = False
    calibrate: Sequence[str] = ()
    num_clips: int = 128
    videos: str | None = None
    root: str | None = None
    split: str | None = None
    labels: str | None = None

    @property
    def path(self) -> Path:
        """The file to write."""
        name = f"{Path(self.checkpoint).stem}-{self.dtype}{formats.get(self.format).suffix}"
        return Path(self.out or name)


def export_checkpoint(request: Request, *, as_json: bool = False) -> int:
    """Export, compare, measure and print.

    Args:
      request: what to export.
      as_json: one JSON object, for programs.

    Returns:
      The exit status.

    Raises:
      UserError: an argument is invalid, a package or file is missing, or the export is wrong.
    """
    calibrated = bool(request.calibrate)
    format = check_arguments(request.format, request.dtype, request.path, calibrated=calibrated)
    paths = _calibration_videos(request)
    source = _test_videos(request) if request.videos else None
    format.require()
    model, protocol = Choices(checkpoint=request.checkpoint, views="1x1", size=request.size).open()
    protocol = dataclasses.replace(protocol, num_frames=model.config.num_frames)
    num_classes, checkpoint = model.config.num_classes, request.checkpoint
    labels, _ = class_names(num_classes, labels=request.labels, checkpoint=checkpoint)
    if source:
        names, owner = network_classes(num_classes, labels=request.labels, checkpoint=checkpoint)
        place = str(request.videos)
        source = match_test(source, names, place=place, owner=owner, say=_note)
    report = export(
        model,
        request.path,
        format=request.format,
        dtype=request.dtype,
        height=protocol.crop_size,
        width=protocol.crop_size,
        uint8=request.uint8,
        calibration=_clips(paths, request.num_clips, protocol) if paths else None,
        labels=labels,
        short_side=protocol.short_side,
        frame_interval=protocol.frame_interval,
        fps=protocol.target_fps,
    )
    if not as_json:
        print(_summary(report), flush=True)
    tested = _test(model, report.path, source, protocol) if source else None
    if as_json:
        print(json.dumps(_fields(report, tested)))
    elif tested:
        print(_accuracy(tested))
    return 0


def _calibration_videos(request: Request) -> list[str]:
    """The paths that `--calibrate` names."""
    first = Path(request.calibrate[0]) if len(request.calibrate) == 1 else Path()
    if first.suffix in _LISTS and first.is_file():
        folder = Path(request.root) if request.root else first.parent
        listed, _ = read_list(first)
        return [str(folder / path) for path, _ in listed]
    return list(inputs.expand(request.calibrate, sys.stdin))


def _clips(paths: Sequence[str], limit: int, protocol: ViewProtocol) -> Clips:
    """The middle clip of each video, of at most `limit` videos."""
    chosen = [paths[k] for k in spread(len(paths), limit)]
    clips = []
    for reading in read_ahead(chosen, protocol):
        if reading.views is None:
            print(f"left out: {reading.error}", file=sys.stderr)
        else:
            clips.append(reading.views[0])
    if not clips:
        raise UserError(f"--calibrate: none of the {len(chosen)} videos can be read; choose others")
    return np.stack(clips)


def _test_videos(request: Request) -> Source:
    """The labelled videos of `--videos`, the first of which can be read."""
    assert request.videos is not None
    label_map = request.labels if request.labels and Path(request.labels).is_file() else None
    source = open_source(
        request.videos, root=request.root, split=request.split, label_map=label_map
    )
    try:
        with source[0].open():
            return source
    except UserError as error:
        folder = request.root or Path(request.videos).parent
        raise UserError(
            f"--videos {request.videos}: {error}; paths are relative to {folder}, --root FOLDER"
            " changes that"
        ) from None


def _test(model: Any, path: Path, source: Source, protocol: ViewProtocol) -> Check:
    """Score every video with both, one view each."""
    network, file = reference(model), open_runtime(path)
    rows = []
    with progress_bar("testing", len(source)) as progress:
        videos = TestVideos(source, protocol, model.config.num_classes)
        batches = ordered_batches(videos.read, videos.blank(), len(videos), batch_size=_TEST_BATCH)
        for batch in batches:
            clips, labels = (np.asarray(batch[key])[batch["mask"]] for key in ("clips", "labels"))
            if len(labels):
                rows.append((network(clips[:, 0]), file(clips[:, 0]), labels))
            progress(len(labels))
    if batches.unreadable:
        raise unreadable_error(batches.unreadable)
    return compare(*map(np.concatenate, zip(*rows, strict=True)))


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _summary(report: ExportReport) -> str:
    result, manifest = report.check, report.manifest
    kind = "uint8, 0..255" if manifest.uint8 else "float32, normalised"
    shape = ", ".join(map(str, (manifest.batch or "any", *manifest.shape)))
    return (
        f"wrote {report.path} ({report.num_bytes / 1e6:.1f} MB) and"
        f" {manifest_path(report.path).name}\n"
        f"input: ({shape}), {kind}; channel = 3 * frame + colour\n"
        f"compared with the network on {count(result.num_clips, 'clip')}: logits differ by at"
        f" most {result.max_difference:.2g} ({result.relative:.2g} of the largest); the best class"
        f" is the same on {result.num_agreeing}\n"
        f"one clip takes {report.milliseconds:.1f} ms in its own runtime, on this machine"
    )


def _accuracy(tested: Check) -> str:
    found, network = (
        100 * right / tested.num_clips for right in (tested.num_right, tested.num_right_network)
    )
    return (
        f"{count(tested.num_clips, 'test video')}, one view each: top-1 {found:.2f} %, the"
        f" network's {network:.2f} %; the best class is the same on"
        f" {100 * tested.agreement:.2f} %"
    )


def _fields(report: ExportReport, tested: Check | None) -> dict[str, Any]:
    fields = {
        "path": str(report.path),
        "bytes": report.num_bytes,
        "milliseconds": report.milliseconds,
        "check": {**dataclasses.asdict(report.check), "agreement": report.check.agreement},
        "manifest": report.manifest.to_json(),
    }
    if tested:
        fields["test"] = {
            "videos": tested.num_clips,
            "top1": tested.num_right / tested.num_clips,
            "top1_network": tested.num_right_network / tested.num_clips,
            "agreement": tested.agreement,
        }
    return fields
