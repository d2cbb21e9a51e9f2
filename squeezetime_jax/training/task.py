"""What a task is: the interface between a task's own arithmetic and the runner.

To add a task, make a folder in `squeezetime_jax/tasks` with

- a subclass of `Experiment` with `task`, the task's name, and the sections that are its own;
- a subclass of `TrainingSet`: its records and what a training sample of one is;
- a subclass of `TestSet`: its test records, what the network answers to a batch of them, and how
  answers become scores (`Scores`);
- a subclass of `Task`: network, preparation of a batch, loss; in `task.py`, under the name `TASK`.

`squeezetime train` and `squeezetime eval` then find it by the name of the folder.
`tasks/recognition/task.py` is the example to read. Everything else exists once: batches, decoding
processes, devices, hosts, saving, resuming and reporting in `training.runner`, evaluation in
`evaluation.scoring`.
"""

import importlib
import importlib.resources
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from squeezetime_jax.checkpoint.store import Meta
from squeezetime_jax.data.batches import Sample
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.scoring import TestSet
from squeezetime_jax.training.experiment import Experiment
from squeezetime_jax.training.network import Network, Tree

Batch = Mapping[str, Array]
Metrics = dict[str, Array]

_TASKS = "squeezetime_jax.tasks"


class TrainingSet(ABC):
    """The records that a network is trained on. It is pickled if there are decoding processes.

    Attributes:
      labels: class names in the order of the network's outputs, if known; a checkpoint keeps them.
    """

    labels: list[str] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of records; an epoch has each once."""

    def contents(self) -> Any:
        """What the records are, a tree of texts, numbers and arrays that all hosts must have."""
        return len(self), self.labels

    @abstractmethod
    def read(self, record: int, rng: np.random.Generator) -> Sample:
        """A training sample: the arrays of `Task.abstract_batch`, without the batch axis.

        Args:
          record: its number.
          rng: for everything drawn, derived from (seed, epoch, record).

        Raises:
          UnreadableRecord: it cannot be read; another record replaces it.
        """


class Task(ABC):
    """What an experiment trains, and on what.

    The runner makes it from an experiment and a folder. Nothing is opened before `training_set` or
    `test_set` is called, and a test set must not need the files of the training set.

    Attributes:
      experiment_type: the task's subclass of `Experiment`.
      metric: name of the number, of a training step and of `Scores.numbers`, that progress shows
        beside the loss; the checkpoint with the highest test value is kept as the best.
      published: field of `Published` that the test value is compared with.
      experiment: the experiment.
      folder: the run's directory, where data that come with the package are written.
      network: the network as pure functions.
      bn_group_size: clips that batch norm takes its statistics over; None: the whole batch, or no
        statistics are taken.
    """

    experiment_type: ClassVar[type[Experiment]]
    metric: ClassVar[str]
    published: ClassVar[str]
    network: Network
    bn_group_size: int | None = None

    def __init__(self, experiment: Any, folder: Path):
        self.experiment, self.folder = experiment, folder

    # What a config leaves open.

    @classmethod
    def fill_in(cls, fields: ConfigDict, folder: Path) -> None:
        """Set the fields that follow from the training data. By default there are none.

        Args:
          fields: as read from a config; changed in place.
          folder: the run's directory.
        """
        return

    @classmethod
    def follow(cls, fields: ConfigDict, init: str) -> None:
        """Set the network and its sampling to those of the weights that a run starts from.

        By default nothing is set.

        Args:
          fields: as read from a config; changed in place.
          init: the weights; where they do not exist, nothing is set.
        """
        return

    @classmethod
    def load(cls, checkpoint: str, fields: ConfigDict) -> Any:
        """Load a trained network, to be evaluated.

        Args:
          checkpoint: a file or directory.
          fields: of the experiment; changed in place to describe the checkpoint's network.

        Returns:
          The network, in evaluation mode.

        Raises:
          UserError: the checkpoint cannot be read, or is not this task's.
        """
        raise NotImplementedError

    # Data.

    def training_set(self) -> TrainingSet:
        """Open the training data.

        Raises:
          UserError: a file is missing or invalid.
        """
        raise NotImplementedError

    def test_set(self, checkpoint: str | None = None) -> TestSet | None:
        """Open the test data; None if the experiment has none.

        Args:
          checkpoint: the file or directory that is tested, which may know the names of the classes;
            None during training.

        Raises:
          UserError: a file is missing or invalid.
        """
        raise NotImplementedError

    def lower_evaluation(self, mesh: Mesh) -> dict[str, jax.stages.Lowered]:
        """What the test set's predictor computes, for the compiler; no data are opened.

        Args:
          mesh: the devices; this machine may lack them.

        Returns:
          Name -> program, of one call each.
        """
        return {}

    # Network.

    @abstractmethod
    def meta(self, labels: list[str] | None) -> Meta:
        """What a checkpoint says of itself; `labels` are those of the training set."""

    @abstractmethod
    def init(self) -> tuple[Tree, Tree]:
        """Weights and statistics before the first step: those of `experiment.init`, or drawn."""

    def trains(self, path: Sequence[str]) -> bool:
        """Whether the parameter at this path of the weights' tree is trained; all are."""
        return True

    # A step.

    @abstractmethod
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of a batch of all hosts; the devices share the first axis of each."""

    @abstractmethod
    def prepare(self, key: PRNGKeyArray, batch: Batch, rows: Int[Array, "n"]) -> Batch:
        """Normalise and augment a batch on the devices.

        Args:
          key: of this step and for this purpose.
          batch: as `abstract_batch` says; with gradient accumulation, one part of it in whole
            groups of batch norm.
          rows: numbers of its clips in the whole batch; what is drawn for a clip follows from it.

        Returns:
          What `loss` takes: arrays with the batch as first axis.
        """

    @abstractmethod
    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """The loss of a batch, with scalars to report and the updated statistics.

        Args:
          params: weights.
          batch_stats: running statistics before the batch.
          batch: what `prepare` returned; with gradient accumulation the mean over the parts is
            used.
          key: for dropout.
        """


def find_task(name: str) -> type[Task]:
    """The task of a name: `TASK` of `squeezetime_jax.tasks.NAME.task`.

    Raises:
      UserError: there is no such task.
    """
    folders = importlib.resources.files(_TASKS).iterdir()
    known = sorted(folder.name for folder in folders if (folder / "task.py").is_file())
    if name not in known:
        raise UserError(f"config: task must be one of {', '.join(known)}, got {name!r}")
    return importlib.import_module(f"{_TASKS}.{name}.task").TASK
