"""What `squeezetime eval` may be given beside a config: other videos, other views."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from squeezetime_jax.checkpoint.store import read_input
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.views import Sampling, published_views
from squeezetime_jax.training import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What to evaluate on. None: as the config says.

    Attributes:
      videos: annotation list, folder of class folders, or shards.
      root: folder that the list's paths are relative to.
      split: of shards.
      labels: file of class names, or a built-in set of names.
      views: "CLIPSxCROPS"; without a config, those of the network's published test.
      workers: decoding processes on each host.
    """

    videos: str | None = None
    root: str | None = None
    split: str | None = None
    labels: str | None = None
    views: str | None = None
    workers: int | None = None

    def fields(self, given: ConfigDict | None) -> ConfigDict:
        """The fields of the config, with these videos.

        Raises:
          UserError: there are neither videos nor a config, or the config is of another task.
        """
        chosen = [name for name, value in dataclasses.asdict(self).items() if value is not None]
        if given is not None and given.task != "recognition" and set(chosen) - {"workers"}:
            raise UserError(
                f"--{chosen[0]} is for recognition, but the config is of {given.task}; use"
                " --config.data.NAME=VALUE and --config.evaluation.NAME=VALUE"
            )
        if given is None and self.videos is None:
            raise UserError("no videos given; give --config FILE, or --videos VIDEOS (and --root)")
        fields = config.default() if given is None else given
        if self.videos is not None:
            fields.data.update(test=self.videos, test_root=self.root or "", root="")
            fields.data.update(test_split=self.split or "", images=False)
        if self.labels is not None:
            fields.data.labels = self.labels
        if self.workers is not None:
            fields.data.workers = self.workers
        return fields

    def set_views(self, fields: ConfigDict, checkpoint: str, *, has_config: bool) -> None:
        """Set the views, once `fields.model` is the checkpoint's."""
        if not has_config:
            expected = read_input(checkpoint, config.parse_section(fields, "model"))
            sampling = Sampling.of_input(expected)
            if not expected.in_time:  # a released protocol counts frames
                sampling = dataclasses.replace(sampling, fps=None)
            views = self.views or published_views(config.parse_section(fields, "model"))
        elif self.views in (None, f"{fields.evaluation.num_clips}x{fields.evaluation.num_crops}"):
            return
        else:
            given = _protocol(fields)
            sampling, views = Sampling.of(given), self.views
            sampling = dataclasses.replace(sampling, test_frames=given.num_frames)
        protocol = sampling.protocol(views, fields.model.num_frames)
        for name in ("num_clips", "num_crops", "num_frames", "short_side", "crop_size"):
            fields.evaluation[name] = getattr(protocol, name)
        fields.data.frame_interval = protocol.frame_interval or 0
        fields.data.target_fps = protocol.target_fps or 0.0


def _protocol(fields: ConfigDict) -> Any:
    return config.parse(fields).views()
