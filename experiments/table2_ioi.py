"""Table 2: the parts of the inter-temporal object interaction (IOI).

python experiments/table2_ioi.py [--scale demo|paper] [--seeds N] [--dry-run]
"""

import sys

from fill_table import main
from tables import Row, Table

PLAIN, FOCUSED, WHOLE = "IOI alone", "with temporal focus", "with focus and position encoding"
TABLE = Table(
    name="table2_ioi",
    title="Table 2: the parts of the IOI branch, without the TFC branch",
    rows=(
        Row(
            name=PLAIN,
            fields={
                "model.branches": "ioi",
                "model.temporal_focus": False,
                "model.position_encoding": False,
            },
            paper={"parameters": 24.9, "multiply-adds": 5.3, "top-1": 68.1, "top-5": 87.4},
        ),
        Row(
            name=FOCUSED,
            fields={"model.branches": "ioi", "model.position_encoding": False},
            paper={"parameters": 27.4, "multiply-adds": 5.3, "top-1": 69.2, "top-5": 88.4},
        ),
        Row(
            name=WHOLE,
            fields={"model.branches": "ioi"},
            paper={"parameters": 27.5, "multiply-adds": 5.3, "top-1": 69.6, "top-5": 88.3},
        ),
    ),
    rising=(PLAIN, FOCUSED, WHOLE),
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
