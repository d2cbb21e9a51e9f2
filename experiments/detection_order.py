"""What the order of the frames is worth to a detector: frame mAP as they are, and shuffled in time.

    squeezetime train --config configs/ava_demo.py --workdir runs/ava_demo
    python experiments/detection_order.py --checkpoint runs/ava_demo [--draws 3]

Every test clip gets an order of its own; each draw is another set of orders.
"""

import argparse
from pathlib import Path

import numpy as np

from squeezetime_jax.tasks.detection.dataset import open_split
from squeezetime_jax.tasks.detection.experiment import measure, parse, with_files
from squeezetime_jax.tasks.detection.weights import load_detector
from squeezetime_jax.training import config, devices


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a run's --workdir")
    parser.add_argument("--config", default="ava_demo")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    experiment = parse(config.read([f"--config={args.config}"]))
    data = with_files(experiment, Path(args.checkpoint) / "videos")
    detector = load_detector(args.checkpoint)
    num_frames = detector.config.num_frames
    split = open_split(data, "test", detector.config.num_classes, num_frames)
    frames = np.tile(np.arange(num_frames), (len(split.key_frames), 1))
    orders = {"in order": None}
    for draw in range(args.draws):
        orders[f"shuffled, draw {draw}"] = np.random.default_rng(draw).permuted(frames, axis=1)
    for name, order in orders.items():
        result = measure(detector, experiment, data, split, devices.data_mesh(), orders=order)
        print(f"{name:18} frame mAP {100 * result.overall:6.2f} %", flush=True)


if __name__ == "__main__":
    main()
