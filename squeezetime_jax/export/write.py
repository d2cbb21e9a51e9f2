"""From a trained network to a file that phones, browsers and servers open."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

import squeezetime_jax
from squeezetime_jax.checkpoint.convert import config_to_json
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import litert, onnx, openvino, stablehlo
from squeezetime_jax.export.check import Check, Reference, check
from squeezetime_jax.export.manifest import (
    Dtype,
    Format,
    Manifest,
    manifest_path,
    write_manifest,
)
from squeezetime_jax.export.packages import require
from squeezetime_jax.export.runtimes import open_runtime
from squeezetime_jax.model.squeezetime import MIN_SIDE, SqueezeTime

SUFFIXES: dict[Format, str] = {
    "stablehlo": ".stablehlo",
    "onnx": ".onnx",
    "litert": ".tflite",
    "openvino": ".xml",
}
"""How each format's files are named."""

DTYPES: dict[Format, tuple[Dtype, ...]] = {
    "stablehlo": ("float32", "bfloat16"),
    "onnx": ("float32", "float16", "int8"),
    "litert": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "bfloat16", "int8"),
}
"""What each format can be asked to compute in."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "stablehlo": ("flatbuffers",),
    "onnx": ("onnx", "onnxruntime"),
    "litert": ("litert_converter", "ai_edge_quantizer", "ai_edge_litert"),
    "openvino": ("onnx", "openvino", "nncf"),
}
"""What writing and checking each format imports, beyond what is always there."""

Writer = Callable[[SqueezeTime, Path, Manifest, np.ndarray | None], None]

_WRITERS: dict[Format, Writer] = {
    "stablehlo": stablehlo.write,
    "onnx": onnx.write,
    "litert": litert.write,
    "openvino": openvino.write,
}

# Rounding in float32 adds up to some 1e-6 of the largest logit; more than this is a mistake.
_TOLERANCE = 1e-4
_NOISE_CLIPS = 2
_CHECKED_CLIPS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from the network it was made of.

    Attributes:
      path: the file; its manifest is beside it.
      manifest: what the manifest says.
      num_bytes: of the file and what belongs to it, without the manifest.
      check: the comparison with the network.
      milliseconds: median time of one clip in the format's own runtime, on this machine.
    """

    path: Path
    manifest: Manifest
    num_bytes: int
    check: Check
    milliseconds: float


def export(
    model: SqueezeTime,
    path: str | os.PathLike[str],
    *,
    format: Format,
    dtype: Dtype = "float32",
    height: int = 224,
    width: int = 224,
    uint8: bool = False,
    calibration: UInt8[np.ndarray, "n t h w 3"] | None = None,
    labels: list[str] | None = None,
    short_side: int | None = None,
    frame_interval: int | None = None,
) -> ExportReport:
    """Write a network as a file of another format, whole or not at all, and check it.

    The file is loaded back and compared with the network, on clips of `calibration` or else on
    noise, before it gets its name.

    Args:
      model: the network, in evaluation mode.
      path: where to, named as `SUFFIXES` says; nothing may be there.
      format: what is to open it.
      dtype: what it computes in, one of `DTYPES`; int8 is quantised after training.
      height: of the clips, in pixels.
      width: of the clips, in pixels.
      uint8: whether clips enter as 0..255 and are normalised inside.
      calibration: RGB clips, 0..255, that int8 takes the ranges of activations from.
      labels: class names, for the manifest.
      short_side: for the manifest.
      frame_interval: for the manifest.

    Raises:
      UserError: a package is missing, something is at `path`, the format does not know `dtype`, or
        the file does not compute what the network does.
    """
    path = Path(path)
    check_request(path, format, dtype, calibrated=calibration is not None)
    _check_size(height, width)
    manifest = Manifest(
        format=format,
        dtype=dtype,
        uint8=uint8,
        batch=1 if format == "litert" else None,
        num_frames=model.config.num_frames,
        height=height,
        width=width,
        num_classes=model.config.num_classes,
        short_side=short_side,
        frame_interval=frame_interval,
        labels=labels,
        network=config_to_json(model.config),
        version=squeezetime_jax.__version__,
    )
    clips = (
        _noise(manifest)
        if calibration is None
        else calibration[spread(len(calibration), _CHECKED_CLIPS)]
    )
    with _whole_or_not_at_all(path) as folder:
        file = folder / path.name
        _WRITERS[format](model, file, manifest, calibration)
        write_manifest(file, manifest)
        runtime = open_runtime(file)
        result = check(Reference(model), runtime, clips)
        milliseconds = runtime.milliseconds(clips[:1])
        _refuse_a_wrong_file(path, model, manifest, result)
        num_bytes = sum(part.stat().st_size for part in _parts(file))
    return ExportReport(
        path=path,
        manifest=manifest,
        num_bytes=num_bytes,
        check=result,
        milliseconds=milliseconds,
    )


def check_request(path: Path, format: Format, dtype: Dtype, *, calibrated: bool) -> None:
    """Refuse what cannot be written, before time is spent on it.

    Raises:
      UserError: the format does not know the type or has another suffix, int8 lacks clips, a
        package is missing, or something is at the path.
    """
    if dtype not in DTYPES[format]:
        raise UserError(
            f"dtype {dtype}: is nothing that {format} computes in; wanted one of"
            f" {', '.join(DTYPES[format])}"
        )
    if path.suffix != SUFFIXES[format]:
        raise UserError(f"{path}: {format} files end in {SUFFIXES[format]}; give another name")
    if dtype == "int8" and not calibrated:
        raise UserError(
            "dtype int8: is quantised by the ranges that activations take on example clips; give"
            " some, with --calibrate VIDEO... on the command line"
        )
    require(*PACKAGES[format])
    for file in (*_parts(path), manifest_path(path)):
        if file.exists():
            raise UserError(f"{file}: exists already; remove it or give another name")


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise UserError(f"size {height} x {width}: the network takes at least {MIN_SIDE} pixels")


def _parts(path: Path) -> list[Path]:
    """The files of an export but its manifest; the one that it is opened by last."""
    return [path.with_suffix(".bin"), path] if path.suffix == SUFFIXES["openvino"] else [path]


@contextlib.contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[Path]:
    """A folder whose files named as the export take their places once all is well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another") from error
    with scratch as name:
        folder = Path(name)
        yield folder
        file = folder / path.name
        for part in (manifest_path(file), *_parts(file)):
            part.replace(path.parent / part.name)


def _noise(manifest: Manifest) -> UInt8[np.ndarray, "n t h w 3"]:
    """Clips to compare on when there are none."""
    shape = (_NOISE_CLIPS, manifest.num_frames, manifest.height, manifest.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def spread(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """At most so many of `count` indices, evenly over them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _refuse_a_wrong_file(path: Path, model: SqueezeTime, manifest: Manifest, result: Check) -> None:
    is_exact = manifest.dtype == "float32" and model.config.dtype != "bfloat16"
    if not np.isfinite(result.max_difference) or (is_exact and result.relative > _TOLERANCE):
        raise UserError(
            f"{path}: not written, for its logits differ from the network's by"
            f" {result.max_difference:.3g}, the largest of which is {result.max_logit:.3g}; wanted"
            f" at most {_TOLERANCE:g} of that; try other versions of the converter's packages"
        )
