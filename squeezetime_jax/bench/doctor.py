"""The state of this installation, for bug reports: versions, devices, decoders, caches."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator

from squeezetime_jax.compilation import cache_folder
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.machine import available_cpus

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
# Module -> what does not work without it.
_NEEDED = {
    "av": "predict, eval, train, prepare, check, demo",
    "cv2": "predict, eval, train, prepare, demo",
    "grain": "eval, train, demo",
    "orbax.checkpoint": "train, demo, convert to our own format",
    "matplotlib": "demo, predict --save, eval --save",
    "tensorflow_datasets": "eval, train, prepare, demo",
}
# Module -> what it adds, and how to install it; for the formats of exports their records say so.
_OPTIONAL = {
    "tensorboardX": ("event files of a training run", "pip install tensorboardX"),
    "tensorboard": ("display of event files", "pip install tensorboard"),
    "torch": ("tests that compare with PyTorch", "pip install torch"),
}


def examine() -> tuple[list[str], bool]:
    """Examine everything.

    Returns:
      Lines for a person, of which those that begin with `!` are problems; and whether there is
      none.
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
        for line, is_fine in part():
            healthy = healthy and is_fine
            lines.append(f"  {line}" if is_fine else f"! {line}")
    return lines, healthy


def _system() -> Iterator[tuple[str, bool]]:
    yield f"Python {platform.python_version()} at {sys.executable}", True
    yield f"{platform.platform()}, {available_cpus()} cores", True
    flags = {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_"))}
    yield f"settings: {flags or 'no JAX_ or XLA_ variables'}", True


def _versions() -> Iterator[tuple[str, bool]]:
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}", True
        except importlib.metadata.PackageNotFoundError:
            # A clone that is run in place is not a distribution; imports check the rest.
            yield f"{name} is not installed as a package", name == "squeezetime-jax"


def _devices() -> Iterator[tuple[str, bool]]:
    import jax

    try:
        for device in jax.devices():
            yield f"{device.platform}:{device.id} {device.device_kind}", True
    except RuntimeError as error:
        yield f"JAX found no device: {str(error).splitlines()[0]}", False
        return
    if shutil.which("nvidia-smi") and jax.default_backend() == "cpu":
        yield "JAX does not use the NVIDIA GPU: pip install -U 'jax[cuda12]'", False


def _decoders() -> Iterator[tuple[str, bool]]:
    try:
        import av
    except ImportError:
        yield "PyAV cannot be imported; videos cannot be read", False
        return
    versions = av.library_versions
    yield f"PyAV with libavcodec {'.'.join(map(str, versions['libavcodec']))}", True
    for name, use in _DECODERS.items():
        is_available = name in av.codecs_available
        yield f"{name}: {use}" + ("" if is_available else " (missing)"), is_available


def _caches() -> Iterator[tuple[str, bool]]:
    folder = cache_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    yield f"compiled programs: {folder}, {size / 1e6:.1f} MB; safe to delete", True
    place = next(path for path in (folder, *folder.parents) if path.exists())
    is_writable = os.access(place, os.W_OK)
    advice = "is writable" if is_writable else "is not writable: set XDG_CACHE_HOME to one that is"
    yield f"{place} {advice}", is_writable


def _commands() -> Iterator[tuple[str, bool]]:
    for module, use in _NEEDED.items():
        problem = _problem_with(module)
        yield (
            f"{module}: {use}" + (f"; cannot be imported ({problem})" if problem else ""),
            not problem,
        )
    for module, (use, command) in _OPTIONAL.items():
        is_installed = importlib.util.find_spec(module)  # importing takes seconds for some
        yield f"{module}: {use}" + ("" if is_installed else f"; not installed: {command}"), True
    for name in FORMATS:
        use = f"export --format {name}, predict and bench with its files"
        command = formats.pip_install(formats.get(name).packages)
        yield use + (f"; not installed: {command}" if command else ""), True


def _problem_with(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library may raise anything
        return formats.first_line(error)
    return ""
