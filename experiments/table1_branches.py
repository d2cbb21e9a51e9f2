"""Table 1: what stands in a block's middle.

python experiments/table1_branches.py [--scale demo|paper] [--seeds N] [--dry-run]
"""

import sys

from fill_table import main
from tables import Row, Table

TABLE = Table(
    name="table1_branches",
    title="Table 1: what stands in a block's middle",
    rows=(
        Row(
            name="base, a 3x3 convolution",
            fields={"model.branches": "conv3x3"},
            paper={"parameters": 23.6, "multiply-adds": 4.7, "top-1": 67.2, "top-5": 87.1},
        ),
        Row(
            name="TFC branch",
            fields={"model.branches": "tfc"},
            paper={"parameters": 16.1, "multiply-adds": 3.1, "top-1": 62.8, "top-5": 83.5},
        ),
        Row(
            name="IOI branch",
            fields={"model.branches": "ioi"},
            paper={"parameters": 27.5, "multiply-adds": 5.3, "top-1": 69.6, "top-5": 88.3},
        ),
        Row(
            name="both (SqueezeTime)",
            paper={"parameters": 28.7, "multiply-adds": 5.5, "top-1": 71.6, "top-5": 89.3},
        ),
    ),
    rising=("TFC branch", "base, a 3x3 convolution", "IOI branch", "both (SqueezeTime)"),
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
