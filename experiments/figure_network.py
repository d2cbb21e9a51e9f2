"""Draw the network: `python experiments/figure_network.py docs/images/network.png`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from squeezetime_jax import SqueezeTimeConfig

INK, ARROW = "#1f2933", "#52606d"
PLAIN, FOCUS, SHORT, LONG, CLIP = "#e4e7eb", "#ffd8a8", "#b2f2bb", "#a5d8ff", "#d0bfff"


def box(axes: Axes, x: float, y: float, text: str, colour: str, width=1.5, height=0.62) -> None:
    """A rounded box whose middle is at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.09"
    axes.add_patch(FancyBboxPatch(corner, width, height, style, fc=colour, ec=INK, lw=0.9))
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=INK, linespacing=1.25)


def arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """A line through the points that ends in an arrow head."""
    *path, last = points
    axes.plot(*zip(*path, last, strict=True), color=ARROW, lw=1.1, solid_capstyle="round")
    head = {"arrowstyle": "-|>", "color": ARROW, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", last, path[-1], arrowprops=head)


def operator(axes: Axes, x: float, y: float, sign: str) -> None:
    """A circle with a sign in it."""
    axes.plot(x, y, "o", ms=13, mfc="white", mec=INK, mew=0.9)
    axes.text(x, y - 0.01, sign, ha="center", va="center", fontsize=10, color=INK)


def draw_network(axes: Axes, config: SqueezeTimeConfig) -> None:
    """The top row: clip, squeeze, stem, four stages, head."""
    for i in range(4):
        axes.add_patch(
            plt.Rectangle((0.15 + 0.09 * i, 4.5 + 0.09 * i), 0.8, 0.8, fc=CLIP, ec=INK, lw=0.8)
        )
    axes.text(
        0.68,
        4.27,
        f"clip: {config.num_frames} frames\n3 colours",
        ha="center",
        va="top",
        fontsize=8,
    )
    y, x = 5.0, 2.3
    texts = [
        f"squeeze\ntime into {3 * config.num_frames}\nchannels",
        "stem\n5x5 conv, /2\nmax-pool, /2",
    ]
    side = 56
    for i, (planes, blocks) in enumerate(zip(config.planes, config.blocks, strict=True)):
        side //= config.strides[i]
        texts.append(
            f"stage {i + 1}\n{blocks} CTL blocks\n{planes * config.expansion} x {side} x {side}"
        )
    texts.append("average pool\nclassifier")
    arrow(axes, (1.3, y), (x - 0.72, y))
    for i, text in enumerate(texts):
        box(axes, x, y, text, (PLAIN, PLAIN, LONG, LONG, LONG, LONG, PLAIN)[i], 1.4, 0.95)
        if i + 1 < len(texts):
            arrow(axes, (x + 0.7, y), (x + 1.08, y))
        x += 1.78


def draw_block(axes: Axes) -> None:
    """Bottom left: the CTL block."""
    axes.text(1.15, 3.55, "CTL block", ha="center", fontsize=9.5, weight="bold", color=INK)
    for y, text, colour in (
        (2.95, "1x1 conv", PLAIN),
        (1.95, "CTL module", LONG),
        (0.95, "1x1 conv", PLAIN),
    ):
        box(axes, 1.15, y, text, colour, 1.35, 0.5)
    arrow(axes, (1.15, 3.45), (1.15, 3.2))
    arrow(axes, (1.15, 2.7), (1.15, 2.2))
    arrow(axes, (1.15, 1.7), (1.15, 1.2))
    arrow(axes, (1.15, 0.7), (1.15, 0.42))
    arrow(axes, (1.15, 3.36), (2.2, 3.36), (2.2, 0.25), (1.32, 0.25))
    operator(axes, 1.15, 0.25, "+")


def draw_module(axes: Axes) -> None:
    """Bottom right: the channel-time learning module with its two branches."""
    axes.text(8.4, 3.55, "CTL module", ha="center", fontsize=9.5, weight="bold", color=INK)
    x, middle = 3.3, 1.95
    axes.text(x, middle + 0.16, "feature map", ha="center", fontsize=8, color=INK)
    arrow(axes, (x - 0.4, middle), (x + 0.5, middle))
    arrow(axes, (3.8, middle), (3.8, 3.1), (3.9, 3.1))
    box(axes, 5.0, 3.1, "weight computation\npool, 1x1, 1x1, sigmoid", FOCUS, 2.2)
    operator(axes, 6.5, middle, "×")
    arrow(axes, (6.1, 3.1), (6.5, 3.1), (6.5, middle + 0.16))
    arrow(axes, (3.8, middle), (6.34, middle))
    axes.text(6.4, 2.5, "weight of\neach moment", fontsize=7, color=INK, va="center", ha="right")
    arrow(axes, (6.66, middle), (7.1, middle), (7.1, 2.95), (7.65, 2.95))
    box(axes, 9.0, 2.95, "temporal focus convolution\n1x1", FOCUS, 2.7)
    arrow(axes, (6.66, middle), (7.65, middle))
    box(axes, 8.35, middle, "3x3 to 16\nchannels", LONG, 1.4)
    arrow(axes, (9.05, middle), (9.475, middle))
    box(axes, 10.1, middle, "+ position\n7x7", LONG, 1.25)
    arrow(axes, (10.725, middle), (11.125, middle))
    box(axes, 11.75, middle, "3x3\nsigmoid", LONG, 1.25)
    arrow(axes, (3.8, middle), (3.8, 0.85), (8.25, 0.85))
    box(axes, 9.0, 0.85, "3x3", SHORT, 1.5, 0.5)
    operator(axes, 13.0, 0.85, "×")
    arrow(axes, (9.75, 0.85), (12.84, 0.85))
    arrow(axes, (12.38, middle), (13.0, middle), (13.0, 1.02))
    operator(axes, 13.75, middle, "+")
    arrow(axes, (10.35, 2.95), (13.75, 2.95), (13.75, middle + 0.17))
    arrow(axes, (13.16, 0.85), (13.75, 0.85), (13.75, middle - 0.17))
    arrow(axes, (13.92, middle), (14.3, middle))
    axes.text(11.6, 3.06, "TFC branch", fontsize=8, style="italic", color=INK, ha="center")
    axes.text(11.2, 0.5, "IOI branch", fontsize=8, style="italic", color=INK, ha="center")


def main() -> None:
    target = Path(sys.argv[1])
    figure, axes = plt.subplots(figsize=(11.6, 4.9))
    axes.set(xlim=(0, 14.4), ylim=(0, 5.65))
    axes.axis("off")
    draw_network(axes, SqueezeTimeConfig.k400())
    draw_block(axes)
    draw_module(axes)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
