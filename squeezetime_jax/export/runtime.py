"""Exported files, opened in their own runtimes.

runtime = open_runtime("k400.tflite")
logits = runtime(clips)
"""

import os
import statistics
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float

from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.predict import Exported
from squeezetime_jax.evaluation.views import Sampling, published_views
from squeezetime_jax.export import formats
from squeezetime_jax.export.manifest import Clips, Manifest, read_manifest
from squeezetime_jax.machine import available_cpus
from squeezetime_jax.peers import registry

_REPEATS = 10


class Runtime:
    """An exported file, loaded and compiled.

    Args:
      manifest: of the file.
      run: from clips as the manifest describes them to logits.
    """

    def __init__(self, manifest: Manifest, run: formats.Run) -> None:
        self.manifest = manifest
        self.run = run

    def __call__(self, clips: Clips) -> Float[np.ndarray, "n classes"]:
        """Logits of any number of RGB clips, 0..255."""
        packed = self.manifest.pack(clips)
        step = self.manifest.batch or len(clips)
        parts = [self.run(packed[i : i + step]) for i in range(0, len(clips), step)]
        return np.concatenate(parts).astype(np.float32)

    def milliseconds(self, clips: Clips) -> float:
        """Median time of one call on these clips, without packing them."""
        packed = self.manifest.pack(clips)
        times = []
        for _ in range(_REPEATS + 2):
            begin = time.perf_counter()
            self.run(packed)
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times[2:])  # the first calls compile and allocate


def open_runtime(path: str | os.PathLike[str], *, threads: int | None = None) -> Runtime:
    """Open an exported file in its own runtime, on the CPU (StableHLO: on JAX's default device).

    Args:
      path: what `squeezetime export` wrote.
      threads: that compute; by default one per core. JAX keeps its own.

    Raises:
      UserError: the file or its manifest is missing or damaged, or the runtime is not installed.
    """
    manifest = read_manifest(path)
    if not Path(path).is_file():
        raise UserError(f"{path}: file not found; `squeezetime export` writes such files")
    format = formats.get(manifest.format)
    format.require(to_open=True)
    try:
        run = format.open(os.fspath(path), manifest, threads or available_cpus())
    except Exception as error:  # runtimes raise any kind
        raise UserError(
            f"{path}: cannot be opened ({formats.first_line(error)}); export the network again"
        ) from None
    return Runtime(manifest, run)


def open_exported(path: str | os.PathLike[str]) -> Exported:
    """Open an exported file for `squeezetime predict`, with the views that it takes.

    Raises:
      UserError: it cannot be opened, or takes clips that are not square.
    """
    manifest = read_manifest(path)
    if manifest.height != manifest.width:
        raise UserError(
            f"{path}: takes clips of {manifest.height}x{manifest.width} pixels, but views are"
            " square; export the network with --size"
        )
    return Exported(
        network=open_runtime(path),
        sampling=Sampling(
            one_crop_side=manifest.short_side or round(manifest.height * 256 / 224),
            crop_size=manifest.height,
            frame_interval=manifest.frame_interval,
            fps=manifest.fps,
        ),
        num_frames=manifest.num_frames,
        num_classes=manifest.num_classes,
        views=published_views(registry.from_json(manifest.network)),
        labels=manifest.labels,
    )
