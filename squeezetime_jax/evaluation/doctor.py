"""What this installation is and can do: versions, devices, decoders, caches; for bug reports."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator

from squeezetime_jax.compilation import cache_folder

PACKAGES = (
    "squeezetime-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
    "tensorflow-datasets", "array-record", "numpy", "av", "opencv-python-headless", "matplotlib",
)  # fmt: skip
"""Distributions whose versions a bug report needs."""

# Decoder of FFmpeg -> which videos need it.
_DECODERS = {
    "h264": "most .mp4 files", "hevc": "phone videos", "mpeg4": "old .avi files", "vp9": ".webm",
    "libdav1d": "AV1", "mjpeg": "cameras",
}  # fmt: skip
# Module -> what does not work without it, and how to have it.
_NEEDED = {
    "av": "predict, eval, train, prepare, check, demo",
    "cv2": "predict, eval, train, prepare, demo",
    "grain": "eval, train, demo",
    "orbax.checkpoint": "train, demo, convert to our own format",
    "matplotlib": "demo, predict --save, eval --save",
    "tensorflow_datasets": "eval, train, prepare, demo",
}
_OPTIONAL = {
    "tensorboardX": "event files of a training run",
    "tensorboard": "looking at them: pip install tensorboard",
    "litert_converter": "export --format litert: pip install 'squeezetime-jax[export]'",
    "ai_edge_litert": "what litert wrote, in predict and bench: likewise",
    "onnx": "export --format onnx, openvino: likewise",
    "onnxruntime": "what onnx wrote, in predict and bench: likewise",
    "openvino": "export --format openvino, predict, bench: likewise",
    "nncf": "export --format openvino --dtype int8: likewise",
    "torch": "the parity tests only: pip install 'squeezetime-jax[parity]'",
}


def examine() -> tuple[list[str], bool]:
    """Look at everything.

    Returns:
      Lines for a person, and whether every command can run.
    """
    lines: list[str] = []
    healthy = True
    parts: list[tuple[str, Callable[[], Iterator[tuple[str, bool]]]]] = [
        ("system", _system),
        ("versions", _versions),
        ("devices", _devices),
        ("decoders", _decoders),
        ("caches", _caches),
        ("commands", _commands),
    ]
    for title, part in parts:
        lines.append(title)
        for line, is_well in part():
            healthy = healthy and is_well
            lines.append(f"  {line}" if is_well else f"! {line}")
    return lines, healthy


def _system() -> Iterator[tuple[str, bool]]:
    yield f"Python {platform.python_version()} at {sys.executable}", True
    yield f"{platform.platform()}, {os.cpu_count()} cores", True
    flags = {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_"))}
    yield f"settings: {flags or 'no JAX_ or XLA_ variables'}", True


def _versions() -> Iterator[tuple[str, bool]]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}", True
        except importlib.metadata.PackageNotFoundError:
            # A clone that is run in place is no distribution; the rest is checked by importing.
            yield f"{name} is not installed as a package", name == "squeezetime-jax"


def _devices() -> Iterator[tuple[str, bool]]:
    import jax

    try:
        for device in jax.devices():
            yield f"{device.platform}:{device.id} {device.device_kind}", True
    except RuntimeError as error:
        yield f"JAX finds no device: {str(error).splitlines()[0]}", False
        return
    if shutil.which("nvidia-smi") and jax.default_backend() == "cpu":
        yield "an NVIDIA GPU is there, but JAX does not use it: pip install 'jax[cuda12]'", False


def _decoders() -> Iterator[tuple[str, bool]]:
    try:
        import av
    except ImportError:
        yield "PyAV cannot be imported, so no video can be read", False
        return
    versions = av.library_versions
    yield f"PyAV with libavcodec {'.'.join(map(str, versions['libavcodec']))}", True
    for name, use in _DECODERS.items():
        is_there = name in av.codecs_available
        yield f"{name}: {use}" + ("" if is_there else " (missing)"), is_there


def _caches() -> Iterator[tuple[str, bool]]:
    folder = cache_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield f"compiled programs: {folder}, {size / 1e6:.1f} MB; safe to delete", True
    place = next(path for path in (folder, *folder.parents) if path.exists())
    is_writable = os.access(place, os.W_OK)
    advice = "" if is_writable else " cannot be written: set XDG_CACHE_HOME to a folder that can"
    yield f"{place}{advice or ' can be written'}", is_writable


def _commands() -> Iterator[tuple[str, bool]]:
    for module, use in _NEEDED.items():
        problem = _problem_with(module)
        line = f"{module}: {use}" if not problem else f"{module} is missing for: {use} ({problem})"
        yield line, not problem
    for module, use in _OPTIONAL.items():
        is_there = importlib.util.find_spec(module)  # some take seconds to import
        yield f"{module}: {use}" + ("" if is_there else " (not installed)"), True


def _problem_with(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # a library that is there but broken raises anything
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""
