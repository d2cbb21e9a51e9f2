"""Exported files as what `squeezetime predict` scores by."""

import os

from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.predict import Exported
from squeezetime_jax.evaluation.views import Sampling
from squeezetime_jax.export.manifest import read_manifest
from squeezetime_jax.export.runtimes import open_runtime


def open_exported(path: str | os.PathLike[str]) -> Exported:
    """Open an exported file, and read from its manifest what views it takes.

    Raises:
      UserError: it cannot be opened, or takes clips that are not square.
    """
    manifest = read_manifest(path)
    if manifest.height != manifest.width:
        raise UserError(
            f"{path}: takes clips of {manifest.height} x {manifest.width}; views are square; export"
            " the network for those"
        )
    side = manifest.short_side or round(manifest.height * 256 / 224)
    sampling = Sampling(
        one_crop_side=side,
        crop_size=manifest.height,
        frame_interval=manifest.frame_interval,
    )
    return Exported(
        network=open_runtime(path),
        sampling=sampling,
        num_frames=manifest.num_frames,
        num_classes=manifest.num_classes,
        labels=manifest.labels,
    )
