"""The names of SqueezeTime's weights in released files, and what their shapes say.

Names here are bare: without the prefix `backbone.net.` that the recogniser's files have before all
names but the head's.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from squeezetime_jax.errors import UserError
from squeezetime_jax.model.config import BLOCKS, SqueezeTimeConfig
from squeezetime_jax.peers import released
from squeezetime_jax.peers.entry import Released
from squeezetime_jax.peers.released import Row

HEAD = "cls_head.fc_cls."
DETECTOR_HEAD = "roi_head.bbox_head.fc_cls."

# (released module, our module, kind).
_Module = tuple[str, str, str]

_STEM: tuple[_Module, ...] = (("conv1", "stem.conv", "conv_hw"), ("bn1", "stem.norm", "norm"))
_CLASSIFIER: tuple[_Module, ...] = ((HEAD.rstrip("."), "head.classifier", "linear"),)
_CTL: tuple[_Module, ...] = (
    ("", "", "conv_hw"),  # the ablation that has a plain convolution in the module's place
    (".param_conv.1", ".focus.reduce", "pointwise_hw"),
    (".param_conv.2", ".focus.norm", "norm"),
    (".param_conv.4", ".focus.expand", "pointwise_hw"),
    (".temporal_conv", ".tfc", "conv_hw"),
    (".spatial_conv.pos_embed", ".ioi.position.grid", "grid"),
    (".spatial_conv.short_conv", ".ioi.short", "conv_hw"),
    (".spatial_conv.glo_conv.0", ".ioi.narrow", "conv_hw"),
    (".spatial_conv.glo_conv.1", ".ioi.norm1", "norm"),
    (".spatial_conv.glo_conv.3", ".ioi.interact", "conv_hw"),
    (".spatial_conv.glo_conv.4", ".ioi.norm2", "norm"),
    (".spatial_conv.glo_conv.6", ".ioi.widen", "conv_hw"),
)
_BLOCK_END: tuple[_Module, ...] = (
    ("shortcut_conv.0", "shortcut.conv", "conv_hw"),
    ("shortcut_conv.1", "shortcut.norm", "norm"),
    ("downsample.0", "halving.conv", "depthwise_hw"),
    ("downsample.1", "halving.norm", "norm"),
)


def _ctl(released: str, ours: str) -> tuple[_Module, ...]:
    return tuple((released + name, ours + path, kind) for name, path, kind in _CTL)


_BOTTLENECK: tuple[_Module, ...] = (
    ("conv1", "reduce", "conv_hw"),
    ("bn1", "norm1", "norm"),
    *_ctl("conv2", "ctl"),
    ("bn2", "norm2", "norm"),
    ("conv3", "expand", "conv_hw"),
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


def modules(config: SqueezeTimeConfig) -> Iterator[Released]:
    """The modules of PyTorch's state dict, in its order, including those of other variants."""
    block = _BOTTLENECK if config.is_bottleneck else _BASIC
    table = list(_STEM)
    for stage, blocks in enumerate(config.blocks):
        for i in range(blocks):
            table += [
                (f"layer{stage + 1}.{i}.{name}", f"stages.{stage}.{i}.{path}", kind)
                for name, path, kind in block
            ]
    return (Released(*module) for module in (*table, *_CLASSIFIER))


def rows(config: SqueezeTimeConfig, leaves: dict[str, Any]) -> list[Row]:
    """The entries of PyTorch's state dict, in its order.

    Args:
      config: gives the blocks.
      leaves: the network's leaves by dotted path; entries of leaves that it lacks are left out.
    """
    return list(released.rows(modules(config), leaves))


# Prefixes that occur, alone or together: data parallel, recogniser or detector, wrapper.
_BACKBONE = re.compile(r"(?:module\.)*(?:backbone\.)?(?:net\.)?(?=(?:conv1|bn1|layer\d)\.)")
_OTHER = re.compile(r"(?:module\.)*")


def bare_name(name: str, head: str = HEAD) -> str:
    """A released name without its prefix; the prefix `head` of a classifier becomes `HEAD`."""
    match = _BACKBONE.match(name) or _OTHER.match(name)
    bare = name[match.end() :] if match else name
    return HEAD + bare.removeprefix(head) if bare.startswith(head) else bare


def full_name(bare: str, prefix: str = "backbone.net.", head: str = HEAD) -> str:
    """The name in a file, where the classifier's names begin with `head`."""
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
            f"not SqueezeTime's weights: stages of {blocks} blocks, expected one of "
            f"{sorted(set(BLOCKS.values()))}; the first of {len(shapes)} entries are "
            f"{', '.join(name[:40] for name in list(shapes)[:3]) or 'none'}"
        )
    stem = _shape(shapes, "conv1.weight", 4)
    planes = tuple(_shape(shapes, f"layer{i}.0.bn2.weight", 1)[0] for i in range(1, 5))
    width = planes[-1] / 512
    if planes != tuple(int(base * width) for base in (64, 128, 256, 512)) or not planes[0]:
        raise UserError(f"stages of {planes} channels, expected a multiple of (64, 128, 256, 512)")
    if stem[1] % 3 or not stem[1]:
        raise UserError(f"conv1.weight has {stem[1]} input channels, expected 3 per frame")
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
    """The fields that say what is in the middle of a block."""

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
        raise UserError(f"not SqueezeTime's weights: {name} {found}, expected {ndim} axes")
    return shape
