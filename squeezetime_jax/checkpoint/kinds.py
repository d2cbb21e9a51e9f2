"""The kinds of networks that released files contain, and which kind a file is of.

A kind knows the released names of its network's weights and how their shapes give the
configuration. SqueezeTime, alone or in a detector, has its own rules; every other network of the
register has tables of names, one for each spelling that public files use.
"""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from flax import nnx

from squeezetime_jax.checkpoint import torch_names
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.peers import registry, released
from squeezetime_jax.peers.entry import Entry, Released
from squeezetime_jax.peers.released import Row

N = TypeVar("N", bound=nnx.Module)
Shapes = Mapping[str, tuple[int, ...]]

_SQUEEZETIME = "squeezetime"
_WRAPPER = re.compile(r"(?:module\.)*")  # data-parallel training puts it before all names
_MIN_SHARE = 0.5  # of names in common, for a file to count as a damaged one of a network


class Kind(ABC, Generic[N]):
    """A kind of network, as released files have it.

    Attributes:
      name: the network's name in the register.
    """

    name: str

    @abstractmethod
    def bare(self, name: str) -> str:
        """The name of an entry without prefixes that vary between files; as in `rows`."""

    @abstractmethod
    def full(self, bare: str, prefix: str | None = None) -> str:
        """The name of an entry in a file; `prefix`: instead of the usual one."""

    @abstractmethod
    def infer(self, shapes: Shapes) -> Any:
        """The configuration of a file with these shapes by bare name.

        Raises:
          UserError: it is not a file of this kind; the message has no file name.
        """

    @abstractmethod
    def build(self, config: Any) -> N:
        """A new network, in training mode."""

    @abstractmethod
    def rows(self, config: Any, leaves: dict[str, Any]) -> list[Row]:
        """The entries of its state dict, in PyTorch's order, by bare name."""

    def abstract(self, config: Any) -> N:
        """The network as shapes."""
        return nnx.eval_shape(lambda: self.build(config))


@dataclasses.dataclass(frozen=True)
class SqueezeTimeKind(Kind[N]):
    """SqueezeTime, or a network around it.

    Attributes:
      network: its class.
      head: the beginning of the released names of its classifier.
    """

    network: Callable[[SqueezeTimeConfig, nnx.Rngs], N]
    head: str
    name = _SQUEEZETIME

    def bare(self, name: str) -> str:
        """As `Kind.bare`."""
        return torch_names.bare_name(name, self.head)

    def full(self, bare: str, prefix: str | None = None) -> str:
        """As `Kind.full`."""
        prefix = "backbone.net." if prefix is None else prefix
        return torch_names.full_name(bare, prefix, self.head)

    def infer(self, shapes: Shapes) -> SqueezeTimeConfig:
        """As `Kind.infer`."""
        return torch_names.infer_config(dict(shapes))

    def build(self, config: SqueezeTimeConfig) -> N:
        """As `Kind.build`."""
        return self.network(config, nnx.Rngs(0))

    def rows(self, config: SqueezeTimeConfig, leaves: dict[str, Any]) -> list[Row]:
        """As `Kind.rows`."""
        return torch_names.rows(config, leaves)


RECOGNISER: SqueezeTimeKind[SqueezeTime] = SqueezeTimeKind(SqueezeTime, torch_names.HEAD)


@dataclasses.dataclass(frozen=True)
class RegisteredKind(Kind[Any]):
    """A network of the register, in one spelling.

    Attributes:
      entry: the network.
      spelling: one of `entry.released`.
    """

    entry: Entry
    spelling: Callable[[Any], Iterator[Released]]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The network's name in the register."""
        return self.entry.name

    def bare(self, name: str) -> str:
        """As `Kind.bare`."""
        return _WRAPPER.sub("", name, count=1)

    def full(self, bare: str, prefix: str | None = None) -> str:
        """As `Kind.full`."""
        return f"{prefix or ''}{bare}"

    def infer(self, shapes: Shapes) -> NetworkConfig:
        """The published configuration, with as many classes as the classifier has outputs."""
        published = self.entry.config
        leaves = flat_leaves(self.abstract(published))
        for row in self.rows(published, leaves):
            if row.path.startswith("head.") and row.order is not None and row.name in shapes:
                outputs = row.released_shape(leaves[row.path].shape)[:1]
                if outputs == (published.num_classes,):
                    return dataclasses.replace(published, num_classes=shapes[row.name][0])
        return published

    def build(self, config: NetworkConfig) -> Any:
        """As `Kind.build`."""
        return registry.build(config, nnx.Rngs(0))

    def rows(self, config: NetworkConfig, leaves: dict[str, Any]) -> list[Row]:
        """As `Kind.rows`."""
        return list(released.rows(self.spelling(config), leaves))

    def names(self) -> set[str]:
        """All names that an entry of the published network may have."""
        return {
            module.name + suffix
            for module in self.spelling(self.entry.config)
            for suffix, *_ in released.PARAMETERS[module.kind]
        }

    def num_fitting(self, shapes: Shapes) -> int:
        """Entries whose shape is that of the network."""
        config = self.infer(shapes)
        leaves = flat_leaves(self.abstract(config))
        return sum(
            row.order is not None
            and shapes.get(row.name) == row.released_shape(leaves[row.path].shape)
            for row in self.rows(config, leaves)
        )


def kinds_of(network: str) -> list[Kind[Any]]:
    """The kinds of a network of the register: one for each spelling, the one written first."""
    if network == _SQUEEZETIME:
        return [RECOGNISER]
    entry = registry.entry_of(network)
    return [RegisteredKind(entry, spelling) for spelling in entry.released]


def recognise(shapes: Shapes, network: str | None = None) -> Kind[Any]:
    """The kind of a state dict, by its names and shapes.

    Args:
      shapes: by name, as in the file.
      network: which network to take if several have these names; in the register.

    Returns:
      The kind that fits best; it may be another network than the given one.

    Raises:
      UserError: several networks fit equally well; the message has no file name.
    """
    try:
        RECOGNISER.infer({RECOGNISER.bare(name): shape for name, shape in shapes.items()})
        return RECOGNISER
    except UserError:
        found = _by_names(shapes)
    found = [kind for kind in found if kind.name == network] or found
    if len(found) > 1:
        found = _by_shapes(found, shapes)
    if len(found) > 1:
        names = " and ".join(kind.name for kind in found)
        raise UserError(f"names and shapes fit {names}; choose one (name=..., --network NAME)")
    # Without any, the kind's own error says what is in the file.
    return found[0] if found else kinds_of(network or _SQUEEZETIME)[0]


def _by_names(shapes: Shapes) -> list[RegisteredKind]:
    """The kinds with the most names in common with a state dict; none if that are few."""
    shares: dict[RegisteredKind, float] = {}
    for network in registry.names():
        for kind in kinds_of(network):
            if isinstance(kind, RegisteredKind):
                bare, known = {kind.bare(name) for name in shapes}, kind.names()
                shares[kind] = len(bare & known) / len(bare | known)
    best = max(shares.values(), default=0)
    return [kind for kind, share in shares.items() if share == best >= _MIN_SHARE]


def _by_shapes(kinds: list[RegisteredKind], shapes: Shapes) -> list[RegisteredKind]:
    """Of these kinds, those with the most shapes in common with a state dict."""
    fitting = {
        kind: kind.num_fitting({kind.bare(name): shape for name, shape in shapes.items()})
        for kind in kinds
    }
    return [kind for kind in kinds if fitting[kind] == max(fitting.values())]
