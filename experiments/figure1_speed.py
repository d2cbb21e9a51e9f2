"""Figure 1: accuracy against speed, for the four widths of Table 5.

    python experiments/figure1_speed.py [--scale demo|paper] [--seeds N] [--dry-run]

The runs are those of Table 5; each width's network is timed on this machine at the size at which it
was trained.
"""

import sys

import table5_width
from fill_table import main
from speeds import Timed
from tables import Choices, Row, Table, kinetics400


def as_trained(row: Row, choices: Choices) -> Timed:
    """The network that the accuracy is of."""
    run = kinetics400(row, choices, 0)
    return Timed(run.network(), run.experiment().data.crop_size, ("fused float32",))


TABLE = Table(
    name="figure1_speed",
    title="Figure 1: accuracy against speed",
    rows=table5_width.TABLE.rows,
    timed=as_trained,
    demo_note=table5_width.TABLE.demo_note,
    note="The paper's figure has SqueezeTime at 71.6 % and 123 ms a clip, on another machine.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
