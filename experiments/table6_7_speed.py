"""Tables 6 and 7: SqueezeTime on Kinetics-400, its speed on this machine beside the paper's.

    python experiments/table6_7_speed.py [--dry-run]
    python experiments/table6_7_speed.py --scale paper --weights SqueezeTime_K400.pth

Speed is always the paper's network's, 16 frames of 224 x 224. Accuracy is that of given weights, of
a training run (scale "paper") or of the small network on the motion videos (scale "demo").
"""

import sys

from fill_table import main
from speeds import Timed
from tables import Choices, Row, Table, kinetics400

WAYS = ("fused float32", "openvino float32", "openvino int8", "litert int8")


def full_size(row: Row, choices: Choices) -> Timed:
    """The paper's network, whatever the scale of the accuracy."""
    network = kinetics400(row, Choices(scale="paper"), 0).network()
    return Timed(network, 224, WAYS)


TABLE = Table(
    name="table6_7_speed",
    title="Tables 6 and 7: SqueezeTime on Kinetics-400, and its speed",
    rows=(
        Row(
            name="SqueezeTime",
            paper={"parameters": 28.7, "multiply-adds": 5.5, "top-1": 71.6, "top-5": 89.3},
        ),
    ),
    timed=full_size,
    note="The paper's speed, on other machines: 123 ms a clip on a Xeon Gold 6278C, 139 ms on a"
    " phone's processor, 903 clips/s on a V100.",
)

if __name__ == "__main__":
    sys.exit(main(TABLE, __doc__))
