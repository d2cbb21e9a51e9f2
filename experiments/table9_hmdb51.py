"""Table 9: SqueezeTime on HMDB51, fine-tuned from Kinetics-400.

python experiments/table9_hmdb51.py [--scale demo|paper] [--seeds N] [--dry-run]
python experiments/table9_hmdb51.py --scale paper --from SqueezeTime_K400.pth
python experiments/table9_hmdb51.py --scale paper --weights SqueezeTime_HMDB51.pth
"""

import sys

from fill_table import main
from runs import Run
from tables import Choices, Row, Table, on_kinetics400

# Few videos of other scenes: what HMDB51 is to Kinetics-400.
FEW = {"data.motion.seed": 1, "data.motion.num_train": 320, "data.motion.num_test": 400}


def fine_tuned(row: Row, choices: Choices, seed: int) -> Run:
    """From the network of Table 1, on fewer videos."""
    start = on_kinetics400(choices)
    if choices.scale == "demo":
        return Run(config="ablation", fields=FEW, where=choices.extra, seed=seed, start=start)
    return Run(
        config="hmdb51:paper",
        where=choices.extra,
        seed=seed,
        start=start,
        views="2x3",
        weights=choices.weights,
    )


TABLE = Table(
    name="table9_hmdb51",
    title="Table 9: SqueezeTime on HMDB51, fine-tuned from Kinetics-400",
    rows=(Row(name="SqueezeTime", paper={"top-1": 65.6, "top-5": 90.3}),),
    run=fine_tuned,
    demo_note="Here: the small network of Table 1 (seed 0), fine-tuned on 320 motion videos of"
    " other scenes by the same recipe.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
