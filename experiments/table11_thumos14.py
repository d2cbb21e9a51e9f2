"""Table 11: temporal action localisation on THUMOS14.

python experiments/table11_thumos14.py [--scale demo|paper] [--seeds N] [--dry-run]
"""

import sys

from fill_table import main
from runs import Run
from tables import Choices, Row, Table, on_kinetics400

THRESHOLDS = ("0.3", "0.4", "0.5", "0.6", "0.7")


def localizer(row: Row, choices: Choices, seed: int) -> Run:
    """From Kinetics-400 weights; on untrimmed motion videos from the demo's."""
    if choices.scale == "demo":
        start = choices.start or Run(config="demo", evaluated=False)
        return Run(config="thumos14:demo", where=choices.extra, seed=seed, start=start)
    return Run(
        config="thumos14",
        where=choices.extra,
        seed=seed,
        start=on_kinetics400(choices),
        weights=choices.weights,
    )


TABLE = Table(
    name="table11_thumos14",
    title="Table 11: localisation on THUMOS14, mean average precision by overlap",
    rows=(
        Row(
            name="SqueezeTime",
            paper=dict(
                zip(("average", *THRESHOLDS), (32.7, 48.3, 43.0, 34.8, 24.7, 13.8), strict=True)
            ),
        ),
    ),
    metrics={"average": "average", **{t: f"per_threshold.{t}" for t in THRESHOLDS}},
    run=localizer,
    demo_note="Here: the untrimmed motion videos of configs/thumos14.py:demo, from the weights of"
    " configs/demo.py.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
