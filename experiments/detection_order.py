"""What the order of the frames is worth to a detector: frame mAP in order, and shuffled in time.

    squeezetime train --config configs/ava_demo.py --workdir runs/ava_demo
    python experiments/detection_order.py --checkpoint runs/ava_demo [--draws 3]

Every test clip gets its own order; each draw is another set of orders.
"""

import argparse
from pathlib import Path

import numpy as np

from squeezetime_jax.evaluation import scoring
from squeezetime_jax.tasks.detection.dataset import Split
from squeezetime_jax.tasks.detection.task import Detection, TestClips
from squeezetime_jax.training import config, devices


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a run's --workdir")
    parser.add_argument("--config", default="ava_demo")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    fields = config.read([f"--config={args.config}"])
    detector = Detection.load(args.checkpoint, fields)
    experiment = config.parse(fields)
    num_classes, num_frames = experiment.model.num_classes, experiment.model.num_frames
    data = Detection(experiment, Path(args.checkpoint)).data
    split = Split(data, "test", num_classes, num_frames)
    frames = np.tile(np.arange(num_frames), (len(split.key_frames), 1))
    orders = {"in order": None}
    for draw in range(args.draws):
        orders[f"shuffled, draw {draw}"] = np.random.default_rng(draw).permuted(frames, axis=1)
    for name, order in orders.items():
        clips = TestClips(split, experiment.evaluation, order)
        overall = scoring.score(clips, detector, devices.data_mesh()).scores.numbers()["overall"]
        print(f"{name:18} frame mAP {100 * overall:6.2f} %", flush=True)


if __name__ == "__main__":
    main()
