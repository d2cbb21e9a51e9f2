"""Table 5: how wide the network is.

python experiments/table5_width.py [--scale demo|paper] [--seeds N] [--dry-run]
"""

import sys

from fill_table import main
from tables import Row, Table


def row(width, paper):
    """The small network of the ablations is half as wide as the paper's."""
    fields = {} if width == 1.0 else {"model.width": width}
    demo = {} if width == 1.0 else {"model.width": width / 2}
    return Row(name=f"width {width:g}", fields=fields, demo=demo, paper=paper)


TABLE = Table(
    name="table5_width",
    title="Table 5: width, as a factor on every stage's channels",
    rows=(
        row(0.5, {"multiply-adds": 1.9, "top-1": 67.8}),
        row(0.75, {"multiply-adds": 3.4, "top-1": 69.8}),
        row(1.0, {"parameters": 28.7, "multiply-adds": 5.5, "top-1": 71.6, "top-5": 89.3}),
        row(1.25, {"multiply-adds": 8.1, "top-1": 71.9}),
    ),
    rising=("width 0.5", "width 0.75", "width 1", "width 1.25"),
    demo_note="Here each network is half as wide: 0.25, 0.375, 0.5, 0.625.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
