"""The training runs that fill a table: names, folders, commands, results and estimated costs."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paper import Row, Table, Training

from squeezetime_jax.files import write_whole
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.counts import Counts, count
from squeezetime_jax.training import config

# Forward multiply-adds a second while training: a GPU at a third of the 903 clips a second that the
# paper reports for inference on a V100, and two processor cores as measured with configs/ablation.
GPU_RATE = 300 * 5.48e9
CORES_RATE = 5.5e9
_CHECKPOINTS = 3  # two newest and the best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says about the runs of a table.

    Attributes:
      scale: "demo" or "paper".
      seeds: runs of each row.
      start: weights that the runs start from, instead of runs of this project.
      weights: a checkpoint to evaluate instead of training.
      extra: further fields of the config, such as where the data are.
      workdir: where runs, tables and pictures go.
    """

    scale: str = "demo"
    seeds: int = 1
    start: str = ""
    weights: str = ""
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    workdir: Path = Path("runs/tables")

    @property
    def folder(self) -> Path:
        """Where runs, tables and pictures of the scale lie."""
        return self.workdir / self.scale

    @property
    def videos(self) -> Path:
        """The motion videos that runs of scale "demo" share."""
        return self.workdir.absolute() / "demo" / "videos"

    def remember(self, table: Table) -> None:
        """Write down the settings of a table, for the report to find the same runs."""
        fields = {**dataclasses.asdict(self), "workdir": ""}
        write_whole(self.folder / f"{table.name}.json", json.dumps(fields) + "\n")

    def remembered(self, table: Table) -> "Settings":
        """The settings with which a table was last run; these if it never was."""
        try:
            fields = json.loads((self.folder / f"{table.name}.json").read_text())
        except FileNotFoundError:
            return self
        return Settings(**{**fields, "workdir": self.workdir})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run and its evaluation.

    Attributes:
      training: the config, and how it is evaluated.
      fields: of the config that differ, and name the run.
      where: further fields, which say where data lie and do not name the run.
      seed: of all random draws.
      start: a file, or a run that is done before, whose weights it starts from; None: as the config
        says.
      weights: a checkpoint that is evaluated instead of training one.
    """

    training: Training
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    start: "Run | str | None" = None
    weights: str = ""

    @property
    def name(self) -> str:
        """A path: config, what differs from it, seed, and weights that were given."""
        parts = [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(self.fields.items())]
        differs = ",".join(parts).replace("/", "_") or "as_it_is"
        base = self.training.config.replace(":", "-")
        last = f"seed{self.seed}"
        if isinstance(self.start, str):
            last += f"-from-{Path(self.start).stem}"
        if self.weights:
            last = f"weights-{Path(self.weights).stem}"
        return f"{base}/{differs}/{last}"

    def result_file(self, folder: Path) -> Path:
        """Where its result lies: beside its own folder."""
        path = folder / self.name
        return path.with_name(f"{path.name}.json")

    def result(self, folder: Path) -> dict[str, Any] | None:
        """Its result, with `scores` or `failed`; None before it was run."""
        try:
            return json.loads(self.result_file(folder).read_text())
        except FileNotFoundError:
            return None

    def is_done(self, folder: Path) -> bool:
        """Whether it was trained and evaluated."""
        return "scores" in (self.result(folder) or {})

    def before(self) -> list["Run"]:
        """The runs that must be done first, in order."""
        if self.weights or not isinstance(self.start, Run):
            return []
        return [*self.start.before(), self.start]

    def config_arguments(self) -> list[str]:
        """The config and its fields, as `train` and `eval` both take them."""
        fields = {"seed": self.seed, **self.where, **self.fields}
        return [
            f"--config={self.training.config}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]

    def train_arguments(self, folder: Path) -> list[str]:
        """The arguments of `squeezetime train`."""
        words = [*self.config_arguments(), f"--workdir={folder / self.name}"]
        if self.start is None:
            return words
        start = folder / self.start.name if isinstance(self.start, Run) else self.start
        return [*words, f"--from={start}"]

    def evaluation_file(self, folder: Path) -> Path:
        """What `squeezetime eval` printed, where the run was trained."""
        return folder / self.name / "evaluation.json"

    def eval_arguments(self, folder: Path) -> list[str]:
        """The words of `squeezetime eval` on the trained network."""
        checkpoint = self.weights or str(folder / self.name)
        words = [*self.config_arguments(), f"--checkpoint={checkpoint}", "--json"]
        views = [f"--views={self.training.views}"] if self.training.views else []
        return ["eval", *words, *views]

    def experiment(self) -> Any:
        """The config with its fields."""
        return _read(tuple(self.config_arguments()))

    def network(self) -> SqueezeTimeConfig:
        """The network that is trained."""
        return config.parse_section(self.experiment(), "model")

    def side(self) -> int:
        """Height and width of a training clip, in pixels."""
        fields = self.experiment()
        return fields.window.crop_side if "window" in fields else fields.data.crop_size

    def counts(self) -> Counts:
        """Parameters, and multiply-adds of a clip."""
        return _count(self.network(), self.side())

    def hours(self) -> float:
        """Estimated hours, from multiply-adds: of one GPU, or of two cores for embedded data."""
        fields = self.experiment()
        clips = self.training.clips or _embedded_clips(fields)
        work = fields.epochs * clips * self.counts().multiply_adds
        rate = GPU_RATE if self.training.clips else CORES_RATE
        return 0.0 if self.weights else work / rate / 3600

    def gigabytes(self) -> float:
        """Disk that its checkpoints take: weights and momentum, four bytes each."""
        counts = self.counts()
        numbers = 0 if self.weights else counts.backbone + counts.head
        return _CHECKPOINTS * 2 * 4 * numbers / 1e9


# Counting traces a network, reading runs a config file; both are repeated for each seed.
_count = functools.lru_cache(maxsize=None)(lambda network, side: count(network, side, side))
_read = functools.lru_cache(maxsize=None)(config.read)


def _embedded_clips(fields: Any) -> int:
    if "window" in fields:  # of untrimmed videos: the number of clips is not known beforehand
        return 0
    return next(fields.data[name].num_train for name in ("motion", "people") if name in fields.data)


def run_of(table: Table, row: Row, settings: Settings, seed: int = 0) -> Run:
    """The run of a row for a seed."""
    return _run(table.training(settings.scale), row.at(settings.scale), settings, seed)


def runs_of(table: Table, settings: Settings) -> list[Run]:
    """Every run of a table, one seed after the other."""
    seeds = range(settings.seeds)
    return [run_of(table, row, settings, seed) for seed in seeds for row in table.rows]


def _run(training: Training, fields: Mapping[str, Any], settings: Settings, seed: int) -> Run:
    start: Run | str | None = settings.start or None
    if training.start and start is None:
        network = {name: value for name, value in fields.items() if name.startswith("model.")}
        plain = dataclasses.replace(settings, extra={}, weights="")
        start = _run(training.start, network, plain, 0)
    names = ("train", "test") if training.shares_videos else ()
    return Run(
        training=training,
        fields={**training.fields, **fields},
        where={**{f"data.{n}": settings.videos / f"{n}.txt" for n in names}, **settings.extra},
        seed=seed,
        start=start,
        weights=settings.weights,
    )


def ordered(runs: Iterable[Run]) -> list[Run]:
    """The runs with all that come before them, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        for each in (*run.before(), run):
            found.setdefault(each.name, each)
    return list(found.values())
