"""A table of the paper as rows of runs.

Every `table*.py` declares a `Table` for `fill_table.main`. At scale "paper" a row is trained (or,
with `--weights`, evaluated) on the paper's data; at scale "demo" the same change is made to the
network of configs/ablation.py, on the embedded motion videos, over several seeds.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runs import Run
from speeds import Timed

from squeezetime_jax.files import write_whole

SCALES = ("demo", "paper")
TOP = {"top-1": "top1", "top-5": "top5"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
      name: as the table shows it.
      fields: of the config that differ from the table's network.
      demo: the same at scale "demo", where they are others.
      paper: the paper's figures, by column, in percent; "parameters" in millions and
        "multiply-adds" in thousands of millions.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    demo: Mapping[str, Any] | None = None
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def at(self, scale: str) -> Mapping[str, Any]:
        """The fields at a scale."""
        return self.demo if scale == "demo" and self.demo is not None else self.fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """What the command line says.

    Attributes:
      scale: "demo" or "paper".
      seeds: of each row.
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

    def remember(self, name: str) -> None:
        """Note what a table was asked for, for the report to look for the same runs."""
        fields = {**dataclasses.asdict(self), "workdir": ""}
        write_whole(self.workdir / self.scale / f"{name}.json", json.dumps(fields) + "\n")

    @classmethod
    def remembered(cls, name: str, scale: str, workdir: Path) -> "Choices | None":
        """What a table was last asked for; None if it never was."""
        path = workdir / scale / f"{name}.json"
        if not path.exists():
            return None
        return cls(**{**json.loads(path.read_text()), "workdir": workdir})


MakeRun = Callable[[Row, Choices, int], Run]


def kinetics400(row: Row, choices: Choices, seed: int) -> Run:
    """A network of the ablations: pre-trained on ImageNet and trained on Kinetics-400, or small."""
    if choices.scale == "demo":
        return small(row, choices, seed)
    network = {name: row.fields[name] for name in row.fields if name.startswith("model.")}
    start = choices.start or Run(config="imagenet1k", fields=network, evaluated=False)
    return Run(
        config="k400:paper",
        fields=row.fields,
        where=choices.extra,
        seed=seed,
        start=start,
        views="10x3",
        weights=choices.weights,
    )


def small(row: Row, choices: Choices, seed: int) -> Run:
    """A small network on the embedded motion videos, which all runs of a folder share."""
    videos = choices.workdir.absolute() / "demo" / "videos"
    where = {"data.train": videos / "train.txt", "data.test": videos / "test.txt", **choices.extra}
    start = choices.start or None
    return Run(config="ablation", fields=row.at("demo"), where=where, seed=seed, start=start)


def on_kinetics400(choices: Choices) -> Run | str:
    """What the networks of the other data sets start from: given weights, or Table 1's network."""
    plain = dataclasses.replace(choices, extra={}, weights="")
    return choices.start or kinetics400(Row(name="SqueezeTime"), plain, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper.

    Attributes:
      name: of its script and its files.
      title: what it compares.
      rows: from top to bottom as the paper has them.
      rising: the rows' names from worst to best as the paper has them; empty: it claims no order.
      metrics: column -> its name in the evaluation; the first is the one that is compared.
      run: the run of a row for a seed.
      demo_note: what scale "demo" has otherwise than the paper.
      note: what stands below it at every scale.
      timed: which network of a row is timed on this machine; None: none is.
      seeds: of each row by default, by scale.
    """

    name: str
    title: str
    rows: Sequence[Row]
    rising: Sequence[str] = ()
    metrics: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(TOP))
    run: MakeRun = kinetics400
    demo_note: str = ""
    note: str = ""
    timed: Callable[[Row, Choices], Timed] | None = None
    seeds: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"demo": 3, "paper": 1})

    def all_runs(self, choices: Choices) -> list[Run]:
        """Every run of the table, a seed after the other."""
        seeds = range(choices.seeds)
        return [self.run(row, choices, seed) for seed in seeds for row in self.rows]
