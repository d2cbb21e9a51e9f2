"""The one table of the released names: which entry of a PyTorch state dict is which of our leaves.

Names here are bare: without the prefix `backbone.net.` that the recogniser's files put before all
but the head's. The rows stand in the order of PyTorch's state dict: a module's own parameters, its
buffers, then its children in order of construction.
"""

import enum
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import BLOCKS, SqueezeTimeConfig

HEAD = "cls_head.fc_cls."
DETECTOR_HEAD = "roi_head.bbox_head.fc_cls."
COUNTER = ".num_batches_tracked"


class Layout(enum.Enum):
    """How PyTorch's axes become ours: which are dropped (length 1), how the rest are ordered.

    The value is (PyTorch's axes in our order, PyTorch's axes of length 1 that we leave out).
    """

    CONV = (2, 3, 1, 0), ()  # o i h w -> h w i o
    MATRIX = (1, 0), (2, 3)  # o i 1 1 -> i o: a 1x1 convolution of pooled features
    LINEAR = (1, 0), ()  # o i -> i o
    DEPTHWISE = (2, 3, 0), (1,)  # c 1 h w -> h w c
    GRID = (2, 3, 1), (0,)  # 1 c h w -> h w c
    VECTOR = (0,), ()

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """A view of PyTorch's array with our axes."""
        order, dropped = self.value
        return np.transpose(array, (*order, *dropped)).reshape(
            tuple(array.shape[axis] for axis in order)
        )

    def to_released(self, array: np.ndarray) -> np.ndarray:
        """A view of our array with PyTorch's axes."""
        order, dropped = self.value
        padded = array.reshape((*array.shape, *(1 for _ in dropped)))
        return np.transpose(padded, np.argsort((*order, *dropped)))

    def released_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """PyTorch's shape for ours."""
        return self.to_released(np.broadcast_to(np.int8(0), shape)).shape


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the state dict.

    Attributes:
      name: its bare released name.
      path: the dotted path of our leaf; for a counter, which we have not, its norm's `var`.
      layout: the change of axes; None for a counter.
    """

    name: str
    path: str
    layout: Layout | None


# Kind of module -> (released parameter, our parameter, layout).
_PARAMETERS: dict[str, tuple[tuple[str, str, Layout | None], ...]] = {
    "conv": ((".weight", ".kernel", Layout.CONV), (".bias", ".bias", Layout.VECTOR)),
    "depthwise": ((".weight", ".kernel", Layout.DEPTHWISE), (".bias", ".bias", Layout.VECTOR)),
    "linear": ((".weight", ".kernel", Layout.LINEAR), (".bias", ".bias", Layout.VECTOR)),
    "matrix": ((".weight", "", Layout.MATRIX),),
    "grid": (("", "", Layout.GRID),),
    "norm": (
        (".weight", ".scale", Layout.VECTOR),
        (".bias", ".bias", Layout.VECTOR),
        (".running_mean", ".mean", Layout.VECTOR),
        (".running_var", ".var", Layout.VECTOR),
        (COUNTER, ".var", None),
    ),
}

# (released module, our module, kind).
_Module = tuple[str, str, str]

_STEM: tuple[_Module, ...] = (("conv1", "stem.conv", "conv"), ("bn1", "stem.norm", "norm"))
_CLASSIFIER: tuple[_Module, ...] = ((HEAD.rstrip("."), "head.classifier", "linear"),)
_CTL: tuple[_Module, ...] = (
    ("", "", "conv"),  # the ablation that has a plain convolution in the module's place
    (".param_conv.1", ".focus.reduce", "matrix"),
    (".param_conv.2", ".focus.norm", "norm"),
    (".param_conv.4", ".focus.expand", "matrix"),
    (".temporal_conv", ".tfc", "conv"),
    (".spatial_conv.pos_embed", ".ioi.position.grid", "grid"),
    (".spatial_conv.short_conv", ".ioi.short", "conv"),
    (".spatial_conv.glo_conv.0", ".ioi.narrow", "conv"),
    (".spatial_conv.glo_conv.1", ".ioi.norm1", "norm"),
    (".spatial_conv.glo_conv.3", ".ioi.interact", "conv"),
    (".spatial_conv.glo_conv.4", ".ioi.norm2", "norm"),
    (".spatial_conv.glo_conv.6", ".ioi.widen", "conv"),
)
_BLOCK_END: tuple[_Module, ...] = (
    ("shortcut_conv.0", "shortcut.conv", "conv"),
    ("shortcut_conv.1", "shortcut.norm", "norm"),
    ("downsample.0", "halving.conv", "depthwise"),
    ("downsample.1", "halving.norm", "norm"),
)


def _ctl(released: str, ours: str) -> tuple[_Module, ...]:
    return tuple((released + name, ours + path, kind) for name, path, kind in _CTL)


_BOTTLENECK: tuple[_Module, ...] = (
    ("conv1", "reduce", "conv"),
    ("bn1", "norm1", "norm"),
    *_ctl("conv2", "ctl"),
    ("bn2", "norm2", "norm"),
    ("conv3", "expand", "conv"),
    ("bn3", "norm3", "norm"),
    *_BLOCK_END,
)
_BASIC: tuple[_Module, ...] = (
    *_ctl("conv1", "ctl1"),
    ("bn1", "norm1", "norm"),
    *_ctl("conv2", "ctl2"),
    ("bn2", "norm2", "norm"),
    *_BLOCK_END,
)


def rows(config: SqueezeTimeConfig, leaves: dict[str, Any]) -> list[Row]:
    """The table for one network, in the order of PyTorch's state dict.

    Args:
      config: gives the blocks.
      leaves: the network's leaves by dotted path; rows of modules that it has not are left out.
    """
    modules = list(_STEM)
    block = _BOTTLENECK if config.is_bottleneck else _BASIC
    for stage, blocks in enumerate(config.blocks):
        for i in range(blocks):
            modules += [
                (f"layer{stage + 1}.{i}.{name}", f"stages.{stage}.{i}.{path}", kind)
                for name, path, kind in block
            ]
    found = [row for module in (*modules, *_CLASSIFIER) for row in _rows(module)]
    return [row for row in found if row.path in leaves]


def _rows(module: _Module) -> Iterator[Row]:
    released, ours, kind = module
    for name, path, layout in _PARAMETERS[kind]:
        yield Row(released + name, ours + path, layout)


# Prefixes that occur, alone or together: data parallel, recogniser or detector, wrapper.
_BACKBONE = re.compile(r"(?:module\.)*(?:backbone\.)?(?:net\.)?(?=(?:conv1|bn1|layer\d)\.)")
_OTHER = re.compile(r"(?:module\.)*")


def bare_name(name: str, head: str = HEAD) -> str:
    """A released name without its prefix; a head keeps its own, but `head` becomes `HEAD`."""
    match = _BACKBONE.match(name) or _OTHER.match(name)
    bare = name[match.end() :] if match else name
    return HEAD + bare.removeprefix(head) if bare.startswith(head) else bare


def full_name(bare: str, prefix: str = "backbone.net.", head: str = HEAD) -> str:
    """The name in a file of a network whose classifier is called `head`."""
    return head + bare.removeprefix(HEAD) if bare.startswith(HEAD) else prefix + bare


def infer_config(shapes: dict[str, tuple[int, ...]]) -> SqueezeTimeConfig:
    """Read the configuration off the shapes of a state dict.

    Args:
      shapes: PyTorch's shapes by bare name. Without a head, `num_classes` keeps its default.

    Raises:
      UserError: the names and shapes are not SqueezeTime's; the message has no file name.
    """
    blocks = _count_blocks(shapes)
    is_deep = any(name.endswith(".conv3.weight") for name in shapes)
    depths = [depth for depth in BLOCKS if BLOCKS[depth] == blocks and (depth >= 50) == is_deep]
    if not depths:
        raise UserError(
            f"not SqueezeTime's weights: stages of {blocks} blocks, wanted one of "
            f"{sorted(set(BLOCKS.values()))}; the first of {len(shapes)} entries are "
            f"{', '.join(name[:40] for name in list(shapes)[:3]) or 'none'}"
        )
    stem = _shape(shapes, "conv1.weight", 4)
    planes = tuple(_shape(shapes, f"layer{i}.0.bn2.weight", 1)[0] for i in range(1, 5))
    width = planes[-1] / 512
    if planes != tuple(int(base * width) for base in (64, 128, 256, 512)) or not planes[0]:
        raise UserError(f"stages of {planes} channels are no multiple of (64, 128, 256, 512)")
    if stem[1] % 3 or not stem[1]:
        raise UserError(f"conv1.weight takes {stem[1]} channels, wanted 3 a frame")
    head: dict[str, Any] = {}
    if f"{HEAD}weight" in shapes:
        head["num_classes"] = _shape(shapes, f"{HEAD}weight", 2)[0]
    return SqueezeTimeConfig(
        depth=depths[0],
        width=width,
        num_frames=stem[1] // 3,
        strides=tuple(2 if f"layer{i}.0.downsample.0.weight" in shapes else 1 for i in range(1, 5)),  # type: ignore[arg-type]
        **_infer_module(shapes),
        **head,
    )


def _infer_module(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The fields that say what stands in a block's middle."""

    def has(suffix: str) -> bool:
        return any(name.endswith(suffix) for name in shapes)

    has_tfc, has_ioi = has(".temporal_conv.weight"), has(".short_conv.weight")
    if not has_tfc and not has_ioi:
        return {"branches": "conv3x3"}
    fields: dict[str, Any] = {
        "branches": "both" if has_tfc and has_ioi else "tfc" if has_tfc else "ioi",
        "temporal_focus": has(".param_conv.1.weight"),
        "position_encoding": has(".pos_embed") or not has_ioi,
    }
    if has_ioi and has(".pos_embed"):
        grid = "layer{}.0.conv2.spatial_conv.pos_embed"
        fields["position_grids"] = tuple(_shape(shapes, grid.format(i), 4)[2] for i in range(1, 5))
    return fields


def _count_blocks(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    blocks = [0, 0, 0, 0]
    for name in shapes:
        if match := re.match(r"layer([1-4])\.(\d{1,4})\.", name):
            stage = int(match[1]) - 1
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
    return tuple(blocks)


def _shape(shapes: dict[str, tuple[int, ...]], name: str, ndim: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != ndim or not math.prod(shape):
        found = "is missing" if shape is None else f"has shape {shape}"
        raise UserError(f"not SqueezeTime's weights: {name} {found}, wanted {ndim} axes")
    return shape
