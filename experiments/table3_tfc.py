"""Table 3: temporal focus against a plain 1x1 convolution.

python experiments/table3_tfc.py [--scale demo|paper] [--seeds N] [--dry-run]
"""

import sys

from fill_table import main
from tables import Row, Table

PLAIN, FOCUSED = "plain 1x1 convolution", "temporal focus convolution (TFC)"
TABLE = Table(
    name="table3_tfc",
    title="Table 3: temporal focus against a plain 1x1 convolution, without the IOI branch",
    rows=(
        Row(
            name=PLAIN,
            fields={"model.branches": "tfc", "model.temporal_focus": False},
            paper={"parameters": 13.5, "multiply-adds": 3.1, "top-1": 49.9, "top-5": 73.3},
        ),
        Row(
            name=FOCUSED,
            fields={"model.branches": "tfc"},
            paper={"parameters": 16.1, "multiply-adds": 3.1, "top-1": 62.8, "top-5": 83.5},
        ),
    ),
    rising=(PLAIN, FOCUSED),
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
