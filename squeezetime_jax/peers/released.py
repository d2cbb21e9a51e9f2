"""Released state dicts: how the parameters of PyTorch's modules become ours.

A network's `released` functions list its modules by name (`peers.entry.Released`); here stands
which parameters a kind of module has, and how their axes are ordered.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from squeezetime_jax.peers.entry import Released

Axes = tuple[int, ...]


class Row(NamedTuple):
    """One entry of a released state dict.

    Attributes:
      name: its name.
      path: the dotted path of our leaf; for an entry that we do not keep, of the leaf beside it.
      order: the axes of PyTorch's array in our order; None for an entry that we do not keep.
      ones: axes of length 1 of our array that PyTorch's has not.
      dropped: axes of length 1 of PyTorch's array that ours has not.
      constant: of an entry that we do not keep, its value where that is not 0.
    """

    name: str
    path: str
    order: Axes | None
    ones: Axes = ()
    dropped: Axes = ()
    constant: np.ndarray | None = None

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """A view of PyTorch's array with our axes."""
        assert self.order is not None
        moved = np.transpose(array, (*self.order, *self.dropped))
        kept = moved.reshape(moved.shape[: len(self.order)])
        return np.expand_dims(kept, self.ones)

    def to_released(self, array: np.ndarray) -> np.ndarray:
        """A view of our array with PyTorch's axes."""
        assert self.order is not None
        kept = np.squeeze(array, self.ones)
        padded = kept.reshape((*kept.shape, *(1 for _ in self.dropped)))
        return np.transpose(padded, np.argsort((*self.order, *self.dropped)))

    def released_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """PyTorch's shape for ours."""
        return self.to_released(np.broadcast_to(np.int8(0), shape)).shape


_VECTOR: Axes = (0,)
_BIAS = (".bias", ".bias", _VECTOR, (), ())

# Kind of module -> (PyTorch's parameter, ours, `Row.order`, `Row.ones`, `Row.dropped`).
PARAMETERS: dict[str, tuple[tuple[str, str, Axes | None, Axes, Axes], ...]] = {
    "conv": ((".weight", ".kernel", (2, 3, 4, 1, 0), (), ()), _BIAS),  # o i t h w -> t h w i o
    "conv1d": ((".weight", ".kernel", (2, 1, 0), (1, 2), ()), _BIAS),  # o i t -> t 1 1 i o
    "calibrated": ((".weight", ".kernel", (4, 5, 3, 2), (0,), (0, 1)),),  # 1 1 o i h w
    "conv2d": ((".weight", ".kernel", (2, 3, 1, 0), (0,), ()), _BIAS),  # o i h w -> 1 h w i o
    "linear": ((".weight", ".kernel", (1, 0), (), ()), _BIAS),  # o i -> i o
    "pointwise": ((".weight", ".kernel", (1, 0), (), (2, 3, 4)), _BIAS),  # o i 1 1 1 -> i o
    "in_proj": (("_weight", ".kernel", (1, 0), (), ()), ("_bias", ".bias", _VECTOR, (), ())),
    "layer_norm": ((".weight", ".scale", _VECTOR, (), ()), _BIAS),
    # Single parameters.
    "scalar": (("", "", (), (), ()),),
    "vector": (("", "", _VECTOR, (), ()),),
    "table": (("", "", (0, 1), (), ()),),
    "tokens": (("", "", (1, 2), (), (0,)),),  # 1 n c -> n c
    "token": (("", "", (2,), (), (0, 1)),),  # 1 1 c -> c
    "window": (  # positions of a Swin block's attention
        (".relative_position_bias_table", "", (0, 1), (), ()),
        (".relative_position_index", "", None, (), ()),
    ),
    # Of networks whose frames are channels.
    "conv_hw": ((".weight", ".kernel", (2, 3, 1, 0), (), ()), _BIAS),  # o i h w -> h w i o
    "depthwise_hw": ((".weight", ".kernel", (2, 3, 0), (), (1,)), _BIAS),  # c 1 h w -> h w c
    "pointwise_hw": ((".weight", "", (1, 0), (), (2, 3)),),  # o i 1 1 -> i o, a bare matrix
    "grid": (("", "", (2, 3, 1), (), (0,)),),  # 1 c h w -> h w c
    "norm": (
        (".weight", ".scale", _VECTOR, (), ()),
        _BIAS,
        (".running_mean", ".mean", _VECTOR, (), ()),
        (".running_var", ".var", _VECTOR, (), ()),
        (".num_batches_tracked", ".var", None, (), ()),
    ),
}


def rows(modules: Iterable[Released], leaves: dict[str, Any]) -> Iterator[Row]:
    """The entries of a state dict, in PyTorch's order.

    Args:
      modules: what a network's `released` function gives.
      leaves: the network's leaves by dotted path; entries of leaves that it has not are left out.
    """
    for module in modules:
        for name, path, order, ones, dropped in PARAMETERS[module.kind]:
            if module.path + path in leaves:
                constant = module.constant if order is None else None
                names = module.name + name, module.path + path
                yield Row(*names, order, ones, dropped, constant)
