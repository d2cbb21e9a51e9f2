"""A training run of a sweep: what it is, where it lies, its commands and what they cost."""

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.counts import Counts, count
from squeezetime_jax.training import config

# Forward multiply-adds a second while training: a GPU at a third of the 903 clips a second that the
# paper reports for inference on a V100, and two processor cores as measured with configs/ablation.
GPU_RATE = 300 * 5.48e9
CORES_RATE = 5.5e9
# Clips of one pass over the training data, by config; of any other its `data.motion` says it.
TRAINING_CLIPS = {
    "imagenet1k": 1_281_167,
    "k400": 240_000,
    "k600": 390_000,
    "hmdb51": 3_570,
    "ava21": 184_000,
    "thumos14": 7_842 * 32,
}
_CHECKPOINTS = 3  # two newest and the best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run and its evaluation.

    Attributes:
      config: as `--config` takes it.
      fields: fields of the config that differ, and name the run.
      where: further fields, that say where data lie and do not name the run.
      seed: of everything drawn.
      start: what it starts from: a file, or a run that is done before. None: as the config says.
      views: "CLIPSxCROPS" of the evaluation; empty: the config's.
      evaluated: whether it is evaluated; a run that only others start from is not.
      weights: a checkpoint that is evaluated instead of training one.
    """

    config: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    start: "Run | str | None" = None
    views: str = ""
    evaluated: bool = True
    weights: str = ""

    @property
    def name(self) -> str:
        """A path: config, what differs from it, seed, and weights that were given."""
        parts = [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(self.fields.items())]
        differs = ",".join(parts).replace("/", "_") or "as_it_is"
        base = self.config.replace(":", "-")
        last = f"seed{self.seed}"
        if isinstance(self.start, str):
            last += f"-from-{Path(self.start).stem}"
        if self.weights:
            last = f"weights-{Path(self.weights).stem}"
        return f"{base}/{differs}/{last}"

    def folder(self, workdir: Path) -> Path:
        """Where the run lies."""
        return workdir / self.name

    def result_file(self, workdir: Path) -> Path:
        """Where its result lies, beside its folder."""
        folder = self.folder(workdir)
        return folder.with_name(f"{folder.name}.json")

    def result(self, workdir: Path) -> dict[str, Any] | None:
        """What became of it: `scores`, or `failed`; None before it was run."""
        try:
            return json.loads(self.result_file(workdir).read_text())
        except FileNotFoundError:
            return None

    def is_done(self, workdir: Path) -> bool:
        """Whether there is nothing left to do."""
        return "scores" in (self.result(workdir) or {})

    def before(self) -> list["Run"]:
        """The runs that have to be done first, in order."""
        if self.weights or not isinstance(self.start, Run):
            return []
        return [*self.start.before(), self.start]

    def config_arguments(self) -> list[str]:
        """The config and its fields, as `train` and `eval` both take them."""
        fields = {"seed": self.seed, **self.where, **self.fields}
        return [
            f"--config={self.config}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]

    def train_arguments(self, workdir: Path) -> list[str]:
        """What `squeezetime train` takes."""
        words = [*self.config_arguments(), f"--workdir={self.folder(workdir)}"]
        if self.start is None:
            return words
        start = self.start.folder(workdir) if isinstance(self.start, Run) else self.start
        return [*words, f"--from={start}"]

    def eval_command(self, workdir: Path) -> list[str]:
        """The command that measures the trained network."""
        checkpoint = self.weights or str(self.folder(workdir))
        words = [*self.config_arguments(), f"--checkpoint={checkpoint}", "--json"]
        views = [f"--views={self.views}"] if self.views else []
        return [sys.executable, "-m", "squeezetime_jax", "eval", *words, *views]

    def experiment(self) -> Any:
        """The config with its fields."""
        return _read(tuple(self.config_arguments()))

    def network(self) -> SqueezeTimeConfig:
        """The network that is trained."""
        fields = self.experiment().model.to_dict()
        return SqueezeTimeConfig(**{**fields, "bn_group_size": fields["bn_group_size"] or None})

    def counts(self) -> Counts:
        """What one clip of it costs."""
        return _count(self.network(), _side(self.experiment()))

    def hours(self) -> float:
        """Device-hours, estimated from multiply-adds: a GPU's, or for embedded data two cores'."""
        fields = self.experiment()
        base = self.config.partition(":")[0]
        known = base in TRAINING_CLIPS and not self.config.endswith(":demo")
        clips = TRAINING_CLIPS[base] if known else _embedded_clips(fields)
        work = fields.epochs * clips * self.counts().multiply_adds
        return 0.0 if self.weights else work / (GPU_RATE if known else CORES_RATE) / 3600

    def gigabytes(self) -> float:
        """Disk that its checkpoints take: weights and momentum, four bytes each."""
        counts = self.counts()
        numbers = 0 if self.weights else counts.backbone + counts.head
        return _CHECKPOINTS * 2 * 4 * numbers / 1e9


# Counting traces a network, reading runs a config file: a plan asks for the same again and again.
_count = functools.lru_cache(maxsize=None)(lambda network, side: count(network, side, side))
_read = functools.lru_cache(maxsize=None)(config.read)


def _side(fields: Any) -> int:
    return fields.window.crop_side if "window" in fields else fields.data.crop_size


def _embedded_clips(fields: Any) -> int:
    if "window" in fields:  # of untrimmed videos: how many clips they make is not known before
        return 0
    return next(fields.data[name].num_train for name in ("motion", "people") if name in fields.data)


def ordered(runs: Sequence[Run]) -> list[Run]:
    """The runs with all that come before them, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        for each in (*run.before(), run):
            found.setdefault(each.name, each)
    return list(found.values())
