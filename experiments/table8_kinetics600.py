"""Table 8: SqueezeTime on Kinetics-600.

python experiments/table8_kinetics600.py [--scale demo|paper] [--seeds N] [--dry-run]
python experiments/table8_kinetics600.py --scale paper --weights SqueezeTime_K600.pth
"""

import sys

from fill_table import main
from runs import Run
from tables import Choices, Row, Table, small


def kinetics600(row: Row, choices: Choices, seed: int) -> Run:
    """From ImageNet weights."""
    if choices.scale == "demo":
        return small(row, choices, seed)
    return Run(
        config="k600:paper",
        where=choices.extra,
        seed=seed,
        start=choices.start or Run(config="imagenet1k", evaluated=False),
        views="10x3",
        weights=choices.weights,
    )


TABLE = Table(
    name="table8_kinetics600",
    title="Table 8: SqueezeTime on Kinetics-600",
    rows=(Row(name="SqueezeTime", paper={"top-1": 76.0, "top-5": 92.5}),),
    run=kinetics600,
    demo_note="Here: the small network on the motion videos, as in Table 1; eight classes, of which"
    " guessing finds 12.5 %.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
