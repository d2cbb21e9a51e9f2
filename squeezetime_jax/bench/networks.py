"""The networks that `squeezetime bench` measures, and what is known of them without measuring."""

import ast
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from rich.table import Table

from squeezetime_jax.errors import UserError
from squeezetime_jax.model import counts
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig
from squeezetime_jax.peers import registry

DEFAULT = ("squeezetime", "squeezetime:width=0.5", "squeezetime:num_frames=4")


class PaperRow(NamedTuple):
    """A variant of SqueezeTime in the paper's tables.

    Attributes:
      title: what the table calls it.
      changes: fields that differ from the released network.
      parameters: in millions, of the backbone without position encodings.
      multiply_adds: in thousands of millions, of the backbone.
      top1: accuracy on Kinetics-400, in percent.
    """

    title: str
    changes: dict[str, Any]
    parameters: float | None = None
    multiply_adds: float | None = None
    top1: float | None = None


_IOI = {"branches": "ioi"}
PAPER = (
    PaperRow("SqueezeTime (Table 1, both branches)", {}, 28.7, 5.5, 71.6),
    PaperRow("base, 3x3 convolutions (Table 1)", {"branches": "conv3x3"}, 23.6, 4.7),
    PaperRow("TFC branch only (Table 1)", {"branches": "tfc"}, 16.1, 3.1),
    PaperRow("IOI branch only (Table 1)", _IOI, 27.5, 5.3),
    PaperRow(
        "IOI, no focus, no position (Table 2)",
        {**_IOI, "temporal_focus": False, "position_encoding": False},
        24.9,
        5.3,
    ),
    PaperRow("IOI, focus, no position (Table 2)", {**_IOI, "position_encoding": False}, 27.4, 5.3),
    PaperRow("plain 1x1 (Table 3)", {"branches": "tfc", "temporal_focus": False}, 13.5, 3.1),
    PaperRow("4 frames (Table 4)", {"num_frames": 4}, None, 4.8, 70.7),
    PaperRow("8 frames (Table 4)", {"num_frames": 8}, None, 5.0),
    PaperRow("32 frames (Table 4)", {"num_frames": 32}),
    PaperRow("width 0.5 (Table 5)", {"width": 0.5}, None, 1.9, 67.8),
    PaperRow("width 0.75 (Table 5)", {"width": 0.75}, None, 3.4),
    PaperRow("width 1.25 (Table 5)", {"width": 1.25}, None, 8.1),
    PaperRow("depth 18", {"depth": 18}),
    PaperRow("depth 34", {"depth": 34}),
    PaperRow("depth 101", {"depth": 101}),
)


def names(words: Sequence[str]) -> list[str]:
    """The networks that `--network` means: "all" is the whole register, "paper" Tables 6 and 7.

    Raises:
      UserError: one is unknown or has an invalid field.
    """
    every = registry.names()
    paper = [name for name in every if registry.entry_of(name).published.paper_cpu_ms]
    groups = {"all": every, "paper": paper}
    found = [name for word in words for name in groups.get(word, [word])]
    for name in found:
        parse(name)
    return list(dict.fromkeys(found))


def parse(text: str) -> NetworkConfig:
    """The configuration of "NAME" or "NAME:FIELD=VALUE,FIELD=VALUE".

    Without another value, clips have as many frames as those that the published cost is of.

    Raises:
      UserError: there is no such network or field, or a value is invalid.
    """
    name, _, fields = text.partition(":")
    changes: dict[str, Any] = {"num_frames": registry.entry_of(name).published.clip[0]}
    for part in filter(None, fields.split(",")):
        field, equals, word = part.partition("=")
        if not equals:
            raise UserError(f"network {text!r}: expected NAME:FIELD=VALUE,..., got {part!r}")
        try:
            changes[field] = ast.literal_eval(word)
        except (ValueError, SyntaxError):
            changes[field] = word
    return registry.configure(name, **changes)


def published_size(config: NetworkConfig) -> tuple[int, int]:
    """Height and width of the clips that the network's published cost is of."""
    _, height, width = registry.entry_of(config).published.clip
    return height, width


def check_size(config: NetworkConfig, height: int, width: int) -> None:
    """Refuse clips that are too small for the network.

    Raises:
      UserError: they are.
    """
    graph, state = nnx.split(_abstract(config))
    clips = jax.ShapeDtypeStruct((1, config.num_frames, height, width, 3), jnp.float32)
    try:
        jax.eval_shape(lambda state, clips: nnx.merge(graph, state)(clips), state, clips)
    except ValueError as error:
        raise UserError(f"size {height}x{width}: {error}") from None


def parameters(config: NetworkConfig) -> int:
    """The number of parameters, with the classifier."""
    leaves = jax.tree.leaves(nnx.state(_abstract(config), nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves)


@functools.cache
def _abstract(config: NetworkConfig) -> Any:
    """The network as shapes, in evaluation mode."""
    model = registry.abstract(config)
    model.eval()
    return model


def multiply_adds(config: NetworkConfig, height: int, width: int) -> int:
    """Multiply-adds of a clip, with the classifier."""
    return counts.multiply_adds(_abstract(config), (config.num_frames, height, width))


def paper_cpu_ms(config: NetworkConfig) -> int | None:
    """The paper's milliseconds on a CPU, of a network as in its Table 7."""
    published = registry.entry_of(config).published
    as_published = dataclasses.replace(
        registry.entry_of(config).config, num_frames=published.clip[0]
    )
    return published.paper_cpu_ms if config == as_published else None


def published_top1(config: NetworkConfig) -> float | None:
    """Published accuracy on Kinetics-400 in percent; the paper's for SqueezeTime's variants."""
    for row in PAPER:
        if config == SqueezeTimeConfig(**row.changes):
            return row.top1
    entry = registry.entry_of(config)
    return entry.published.top1 if config == entry.config else None


def counts_table(height: int = 224, width: int = 224) -> Table:
    """Parameters and multiply-adds of SqueezeTime's variants beside the paper's figures.

    Args:
      height: of the clips, in pixels; the paper's figures are for 224x224.
      width: of the clips, in pixels.
    """
    table = Table(title=f"Backbone at {height}x{width}; one multiply-add counts as one")
    table.add_column("network")
    for column in ("parameters", "of which position", "paper", "multiply-adds", "paper"):
        table.add_column(column, justify="right")
    for row in PAPER:
        cost = counts.count(SqueezeTimeConfig(**row.changes), height, width)
        table.add_row(
            row.title,
            f"{cost.backbone:,}",
            f"{cost.position:,}",
            f"{row.parameters} M" if row.parameters else "",
            f"{cost.multiply_adds:,}",
            f"{row.multiply_adds} G" if row.multiply_adds else "",
        )
    return table
