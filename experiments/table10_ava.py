"""Table 10: spatio-temporal action detection on AVA 2.1.

python experiments/table10_ava.py [--scale demo|paper] [--seeds N] [--dry-run]
python experiments/table10_ava.py --scale paper --weights SqueezeTime_AVA2.1.pth
"""

import sys

from fill_table import main
from runs import Run
from tables import Choices, Row, Table, on_kinetics400


def detector(row: Row, choices: Choices, seed: int) -> Run:
    """From Kinetics-400 weights; the embedded persons from scratch."""
    if choices.scale == "demo":
        return Run(config="ava_demo", where=choices.extra, seed=seed)
    return Run(
        config="ava21:paper",
        where=choices.extra,
        seed=seed,
        start=on_kinetics400(choices),
        weights=choices.weights,
    )


TABLE = Table(
    name="table10_ava",
    title="Table 10: detection on AVA 2.1",
    rows=(Row(name="SqueezeTime", paper={"frame mAP": 15.1}),),
    metrics={"frame mAP": "overall"},
    run=detector,
    demo_note="Here: the embedded persons of configs/ava_demo.py.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
