"""What a run trains, apart from how: a network, its batches and its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from squeezetime_jax.checkpoint.store import Meta
from squeezetime_jax.training.network import Network, Tree

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


class Task(ABC):
    """What a run trains.

    Attributes:
      network: the network as pure functions.
      score: the score of an evaluation that the best checkpoint has the highest of; also the
        metric of a step that a progress bar shows beside the loss, where the loss gives it.
      bn_group_size: clips that batch norm takes its statistics over; None: the whole batch.
    """

    network: Network
    score: str
    bn_group_size: int | None = None

    @abstractmethod
    def meta(self, labels: list[str] | None) -> Meta:
        """What a checkpoint says of itself; `labels` are the data's class names, if known."""

    @abstractmethod
    def init(self) -> tuple[Tree, Tree]:
        """Weights and statistics before the first step: read, or drawn."""

    @abstractmethod
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a batch, all hosts' together; devices share the first axis of each."""

    @abstractmethod
    def prepare(self, key: PRNGKeyArray, batch: Batch) -> Batch:
        """Augment a batch on the devices: what arrives to what `loss` takes.

        Args:
          key: of this step, for this purpose alone.
          batch: as `abstract_batch` says.
        """

    @abstractmethod
    def loss(
        self, params: Tree, batch_stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple[Metrics, Tree]]:
        """The loss of a batch, with scalars to report and the statistics moved by it.

        Args:
          params: weights.
          batch_stats: running statistics before the batch.
          batch: what `prepare` gave, or whole groups of it where the recipe accumulates: the mean
            of the parts' losses and metrics is then taken for the batch's.
          key: for dropout.
        """

    def trains(self, path: Sequence[str]) -> bool:
        """Whether the parameter at this path of the weights' tree is trained; all are."""
        return True
