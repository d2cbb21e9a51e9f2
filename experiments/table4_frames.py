"""Table 4: how many frames of a video the network sees.

python experiments/table4_frames.py [--scale demo|paper] [--seeds N] [--dry-run]
"""

import sys

from fill_table import main
from tables import Row, Table


def row(frames, interval, paper):
    """The interval shrinks as the frames grow, so that a clip shows as much of the video."""
    fields = {"model.num_frames": frames, "data.frame_interval": interval}
    # The embedded videos have half as many frames as the paper's clips span.
    demo = {**fields, "data.frame_interval": interval // 2}
    if frames == 16:
        fields, demo = {}, {}
    return Row(name=f"{frames} frames", fields=fields, demo=demo, paper=paper)


TABLE = Table(
    name="table4_frames",
    title="Table 4: frames of a clip (interval 12, 8, 4, 2)",
    rows=(
        row(4, 12, {"multiply-adds": 4.8, "top-1": 70.7, "top-5": 89.1}),
        row(8, 8, {"multiply-adds": 5.0, "top-1": 70.9, "top-5": 88.9}),
        row(16, 4, {"multiply-adds": 5.5, "top-1": 71.6, "top-5": 89.3}),
        row(32, 2, {"top-1": 71.7}),
    ),
    rising=("4 frames", "8 frames", "16 frames", "32 frames"),
    demo_note="Here the frames lie half as far apart as in the paper: 6, 4, 2, 1.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
