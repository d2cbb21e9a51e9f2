"""`squeezetime export`: from words on the command line to a file and what was measured of it."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from squeezetime_jax.data.annotations import read_list
from squeezetime_jax.data.batches import unreadable_error
from squeezetime_jax.data.pipeline import eval_batches
from squeezetime_jax.data.sources import Source, open_source
from squeezetime_jax.data.transforms import ViewProtocol
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import inputs
from squeezetime_jax.evaluation.labels import class_names
from squeezetime_jax.evaluation.predict import Choices, read_ahead
from squeezetime_jax.export.check import Check, Reference, check
from squeezetime_jax.export.manifest import Dtype, Format, manifest_path
from squeezetime_jax.export.runtimes import open_runtime
from squeezetime_jax.export.write import (
    SUFFIXES,
    ExportReport,
    check_request,
    export,
    spread,
)
from squeezetime_jax.model.squeezetime import SqueezeTime

_LISTS = (".txt", ".csv")
_TEST_BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What to export, and what to measure.

    Attributes:
      checkpoint: anything that `squeezetime_jax.load` takes.
      format: what is to open the file.
      dtype: what it computes in.
      out: where to; None: named after checkpoint, type and format, in the working directory.
      size: side of the clips, in pixels; None: what the network was tested with.
      uint8: whether clips enter as 0..255.
      calibrate: videos for int8, and to compare on: files, folders, patterns, or one list.
      num_clips: the most clips that are taken of them.
      test: labelled videos to measure the accuracy on: a list, a folder per class, shards.
      root: what the lists' paths are relative to.
      split: of shards.
      labels: label map, or a built-in set of names.
    """

    checkpoint: str
    format: Format
    dtype: Dtype = "float32"
    out: str | None = None
    size: int | None = None
    uint8: bool = False
    calibrate: Sequence[str] = ()
    num_clips: int = 128
    test: str | None = None
    root: str | None = None
    split: str | None = None
    labels: str | None = None

    @property
    def path(self) -> Path:
        """Where to."""
        suffix = SUFFIXES[self.format]
        return Path(self.out or f"{Path(self.checkpoint).stem}-{self.dtype}{suffix}")


def export_checkpoint(request: Request, *, as_json: bool = False) -> int:
    """Export, compare, measure and print.

    Args:
      request: what to export.
      as_json: one JSON object, for programs.

    Returns:
      The exit status.

    Raises:
      UserError: something is not there, does not fit or cannot be written.
    """
    check_request(request.path, request.format, request.dtype, calibrated=bool(request.calibrate))
    paths = _paths(request.calibrate, request.root)
    source = _test_videos(request) if request.test else None
    model, protocol = Choices(checkpoint=request.checkpoint, views="1x1", size=request.size).open()
    labels, _ = class_names(
        model.config.num_classes, labels=request.labels, checkpoint=request.checkpoint
    )
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
    )
    if not as_json:
        print(_summary(report), flush=True)
    tested = _test(model, report.path, source, protocol) if source else None
    if as_json:
        print(json.dumps(_fields(report, tested)))
    elif tested:
        print(_accuracy(tested))
    return 0


def _paths(words: Sequence[str], root: str | None) -> list[str]:
    """The videos that words mean."""
    if len(words) == 1 and Path(words[0]).suffix in _LISTS and Path(words[0]).is_file():
        folder = Path(root) if root else Path(words[0]).parent
        return [str(folder / path) for path, _ in read_list(words[0])]
    return list(inputs.expand(words, sys.stdin))


def _clips(
    paths: Sequence[str], most: int, protocol: ViewProtocol
) -> UInt8[np.ndarray, "n t h w 3"]:
    """The middle clip of each video, of so many videos at most."""
    chosen = [paths[k] for k in spread(len(paths), most)]
    clips = []
    for reading in read_ahead(chosen, protocol):
        if reading.views is None:
            print(f"left out: {reading.error}", file=sys.stderr)
        else:
            clips.append(reading.views[0])
    if not clips:
        raise UserError(f"--calibrate: none of {len(chosen)} videos could be read; give others")
    return np.stack(clips)


def _test_videos(request: Request) -> Source:
    assert request.test is not None
    label_map = request.labels if request.labels and Path(request.labels).is_file() else None
    return open_source(request.test, root=request.root, split=request.split, label_map=label_map)


def _test(model: SqueezeTime, path: Path, source: Source, protocol: ViewProtocol) -> Check:
    """Score every video with both, one view each."""
    network, file = Reference(model), open_runtime(path)
    total = Check()
    with progress_bar("testing", len(source)) as progress:
        batches = eval_batches(source, protocol, batch_size=_TEST_BATCH)
        for batch in batches:
            clips, labels = (np.asarray(batch[key])[batch["mask"]] for key in ("clips", "labels"))
            total += check(network, file, clips[:, 0], labels)
            progress(len(labels))
    if batches.unreadable:
        raise unreadable_error(batches.unreadable)
    return total


def _summary(report: ExportReport) -> str:
    result, manifest = report.check, report.manifest
    kind = "uint8, 0..255" if manifest.uint8 else "float32, normalised"
    shape = (manifest.batch or "any", manifest.height, manifest.width, 3 * manifest.num_frames)
    return "\n".join(
        (
            f"wrote {report.path} ({report.num_bytes / 1e6:.1f} MB) and"
            f" {manifest_path(report.path).name}",
            f"a clip enters as ({', '.join(map(str, shape))}), {kind};"
            " channel = 3 * frame + colour",
            f"against the network, on {result.num_clips} clips: logits differ by at most"
            f" {result.max_difference:.2g} ({result.relative:.2g} of the largest), the"
            f" first class agrees on {result.num_agreeing}",
            f"one clip takes {report.milliseconds:.1f} ms in its own runtime, on this machine",
        )
    )


def _accuracy(tested: Check) -> str:
    found, wanted = (
        100 * count / tested.num_clips for count in (tested.num_right, tested.num_right_network)
    )
    return (
        f"{tested.num_clips} test videos, one view: top-1 {found:.2f} %, the network's"
        f" {wanted:.2f} %; the first class agrees on {100 * tested.agreement:.2f} %"
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
