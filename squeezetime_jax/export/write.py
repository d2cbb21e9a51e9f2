"""From a trained network to a file that phones, browsers and servers open."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

import squeezetime_jax
from squeezetime_jax.checkpoint.input import input_of
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.export.check import Check, compare, reference
from squeezetime_jax.export.formats import Format
from squeezetime_jax.export.manifest import Clips, Manifest, manifest_path, write_manifest
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers import registry

# Rounding in float32 adds up to some 1e-6 of the largest logit; more than this is a mistake.
_TOLERANCE = 1e-4
_NOISE_CLIPS = 2
_CHECKED_CLIPS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from the network that it was made from.

    Attributes:
      path: the file; its manifest is beside it.
      manifest: what the manifest says.
      num_bytes: size of the file and of its weights, without the manifest.
      check: the comparison with the network.
      milliseconds: median time of one clip in the format's own runtime, on this machine.
    """

    path: Path
    manifest: Manifest
    num_bytes: int
    check: Check
    milliseconds: float


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    format: str,
    dtype: str = "float32",
    height: int | None = None,
    width: int | None = None,
    uint8: bool = False,
    calibration: Clips | None = None,
    labels: list[str] | None = None,
    short_side: int | None = None,
    frame_interval: int | None = None,
    fps: float | None = None,
) -> ExportReport:
    """Write a network as a file of another format, whole or not at all, and check it.

    Before the file gets its name it is opened in its own runtime and compared with the network, on
    clips of `calibration` or else on noise.

    Args:
      model: the network, in evaluation mode.
      path: where to, with the format's suffix; nothing may be there.
      format: one of `squeezetime_jax.export.FORMATS`.
      dtype: type that the file computes in, one of the format's.
      height: of the clips, in pixels; None: the side that the network expects.
      width: of the clips, in pixels; likewise.
      uint8: whether clips enter as 0..255 and are normalised inside.
      calibration: RGB clips, 0..255; int8 takes the ranges of activations from them.
      labels: class names, for the manifest.
      short_side: for the manifest.
      frame_interval: for the manifest.
      fps: for the manifest.

    Raises:
      UserError: an argument is invalid, a package is not installed, something is at `path`, or the
        file does not compute what the network does.
    """
    path = Path(path)
    kind = check_arguments(format, dtype, path, calibrated=calibration is not None)
    expected = input_of(model)
    height, width = height or expected.crop_side, width or expected.crop_side
    _check_network(model, kind, height, width)
    kind.require()
    manifest = Manifest(
        format=kind.name,
        dtype=dtype,
        uint8=uint8,
        batch=kind.batch,
        num_frames=model.config.num_frames,
        height=height,
        width=width,
        num_classes=model.config.num_classes,
        short_side=short_side,
        frame_interval=frame_interval,
        fps=fps,
        labels=labels,
        mean=expected.mean,
        std=expected.std,
        network=registry.to_json(model.config),
        version=squeezetime_jax.__version__,
    )
    if calibration is None:
        clips = _noise(manifest)
    else:
        clips = calibration[spread(len(calibration), _CHECKED_CLIPS)]
    with _all_or_nothing(path, kind) as file:
        try:
            kind.write(model, file, manifest, calibration if dtype == "int8" else None)
        except Exception as error:  # converters raise any kind
            raise UserError(
                f"format {format}: cannot hold {model.config.name} in {dtype}:"
                f" {formats.first_line(error)}; try another dtype or format"
            ) from error
        write_manifest(file, manifest)
        runtime = open_runtime(file)
        result = compare(reference(model)(clips), runtime(clips))
        milliseconds = runtime.milliseconds(clips[:1])
        is_exact = dtype == "float32" and model.config.dtype != "bfloat16"
        if not np.isfinite(result.max_difference) or (is_exact and result.relative > _TOLERANCE):
            raise UserError(
                f"{path}: not written: its logits differ from the network's by up to"
                f" {result.max_difference:.3g}, more than {_TOLERANCE:g} of the largest logit"
                f" ({result.max_logit:.3g}); try other versions of the"
                f" packages {', '.join(kind.packages.values())}"
            )
        num_bytes = sum(part.stat().st_size for part in kind.files(file))
    return ExportReport(
        path=path,
        manifest=manifest,
        num_bytes=num_bytes,
        check=result,
        milliseconds=milliseconds,
    )


def check_arguments(format: str, dtype: str, path: Path, *, calibrated: bool) -> Format:
    """The format that the arguments name, once they are valid; nothing is loaded.

    Raises:
      UserError: the format is unknown, does not have the type or has another suffix, int8 has no
        clips, or something is at the path.
    """
    kind = formats.get(format)
    if dtype not in kind.dtypes:
        raise UserError(
            f"dtype {dtype}: not available in format {format}; choose one of"
            f" {', '.join(kind.dtypes)}"
        )
    if path.suffix != kind.suffix:
        raise UserError(f"{path}: the name of a file of format {format} must end in {kind.suffix}")
    if dtype == "int8" and not calibrated:
        raise UserError(
            "dtype int8: needs example videos for the ranges of activations; give some with"
            " --calibrate VIDEO..."
        )
    for file in (*kind.files(path), manifest_path(path)):
        if file.exists():
            raise UserError(f"{file}: already exists; remove it or choose another name")
    return kind


def _check_network(model: Any, format: Format, height: int, width: int) -> None:
    if not format.any_network and not isinstance(model, SqueezeTime):
        others = [name for name in FORMATS if formats.get(name).any_network]
        raise UserError(
            f"format {format.name}: its graph is written for SqueezeTime only, and this network is"
            f" {model.config.name}; choose one of {', '.join(others)}"
        )
    clips = jax.ShapeDtypeStruct((1, model.config.num_frames, height, width, 3), np.float32)
    try:
        jax.eval_shape(model, clips)
    except ValueError as error:
        raise UserError(f"size {height}x{width}: {error}") from None


@contextlib.contextmanager
def _all_or_nothing(path: Path, format: Format) -> Iterator[Path]:
    """A path to write to; its files are moved to `path` once all is well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another") from error
    with scratch as folder:
        file = Path(folder) / path.name
        yield file
        for part in (manifest_path(file), *format.files(file)):
            part.replace(path.parent / part.name)


def _noise(manifest: Manifest) -> Clips:
    """Clips to compare on when there are none."""
    shape = (_NOISE_CLIPS, manifest.num_frames, manifest.height, manifest.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def spread(count: int, limit: int) -> Int[np.ndarray, " chosen"]:
    """At most `limit` of `count` indices, evenly spaced."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int)
