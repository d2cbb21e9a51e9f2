"""What the published networks and the paper's ablations cost."""

from rich.table import Table

from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.counts import count

_IOI = {"branches": "ioi"}
# Name -> what differs from the released network; the paper's parameters in millions and
# multiply-adds in thousands of millions, for the backbone without position encodings.
PAPER: dict[str, tuple[dict, float | None, float | None]] = {
    "SqueezeTime (Table 1, both branches)": ({}, 28.7, 5.5),
    "base, 3x3 convolutions (Table 1)": ({"branches": "conv3x3"}, 23.6, 4.7),
    "TFC branch only (Table 1)": ({"branches": "tfc"}, 16.1, 3.1),
    "IOI branch only (Table 1)": (_IOI, 27.5, 5.3),
    "IOI, no focus, no position (Table 2)": (
        {**_IOI, "temporal_focus": False, "position_encoding": False},
        24.9,
        5.3,
    ),
    "IOI, focus, no position (Table 2)": ({**_IOI, "position_encoding": False}, 27.4, 5.3),
    "plain 1x1 (Table 3)": ({"branches": "tfc", "temporal_focus": False}, 13.5, 3.1),
    "4 frames (Table 4)": ({"num_frames": 4}, None, 4.8),
    "8 frames (Table 4)": ({"num_frames": 8}, None, 5.0),
    "32 frames (Table 4)": ({"num_frames": 32}, None, None),
    "width 0.5 (Table 5)": ({"width": 0.5}, None, 1.9),
    "width 0.75 (Table 5)": ({"width": 0.75}, None, 3.4),
    "width 1.25 (Table 5)": ({"width": 1.25}, None, 8.1),
    "depth 18": ({"depth": 18}, None, None),
    "depth 34": ({"depth": 34}, None, None),
    "depth 101": ({"depth": 101}, None, None),
}

# Networks that are measured where none is named -> the paper's top-1 on Kinetics-400 in percent
# (Tables 4 and 5); "" is the released network.
VARIANTS: dict[str, float | None] = {
    "": 71.6,
    "width=0.5": 67.8,
    "num_frames=4": 70.7,
}
PAPER_SPEED = (
    "The paper's, on other machines: 123 ms (Xeon Gold 6278C), 139 ms (a phone's processor), "
    "903 clips/s (V100)."
)


def counts_table(height: int = 224, width: int = 224) -> Table:
    """Parameters and multiply-adds of every named network, the paper's figures beside.

    Args:
      height: of the clips, in pixels; the paper's figures are for 224x224.
      width: of the clips, in pixels.
    """
    table = Table(title=f"Backbone at {height}x{width}; one multiply-add counts as one")
    table.add_column("network")
    for column in ("parameters", "of which position", "paper", "multiply-adds", "paper"):
        table.add_column(column, justify="right")
    for name, (changes, parameters, multiply_adds) in PAPER.items():
        counts = count(SqueezeTimeConfig(**changes), height, width)
        table.add_row(
            name,
            f"{counts.backbone:,}",
            f"{counts.position:,}",
            f"{parameters} M" if parameters else "",
            f"{counts.multiply_adds:,}",
            f"{multiply_adds} G" if multiply_adds else "",
        )
    return table
