"""The smallest localiser and a run of it; as a program, in a process of its own.

python tests/tasks/localization/small_localizer.py losses STEPS DEVICES,...
python tests/tasks/localization/small_localizer.py evaluate DATA WORKDIR COORDINATOR HOST
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from squeezetime_jax import hosts
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.localization.config import Head, Window
from squeezetime_jax.tasks.localization.task import Localization, TestVideos
from squeezetime_jax.training import config, devices, runner
from squeezetime_jax.training.step import Trainer

SMALL = SqueezeTimeConfig.tiny(num_classes=3, branches="conv3x3", position_grids=(8, 4, 2, 1))
WINDOW = Window(num_frames=16, clip_stride=2, padding=(1, 1), stored_side=36, crop_side=32)
HEAD = Head(channels=32, num_levels=3)
SET = {"num_train": 2, "num_test": 2, "size": 36, "seconds": (8, 10)}


def fields(**changes: object) -> Any:
    """A run of 8 windows a step; changes as `section__field=value`."""
    found = config.default("localization")
    found.epochs, found.batch_size = 2, 8
    found.model.update(depth=10, width=0.125, num_frames=4, num_classes=3, branches="conv3x3")
    found.model.position_grids = (8, 4, 2, 1)
    found.window.update(num_frames=16, clip_stride=2, padding=(1, 1), stored_side=36, crop_side=32)
    found.head.update(channels=32, num_levels=3)
    found.data.max_instances = 4
    found.optimizer.learning_rate = 1e-3
    found.run.update(log_steps=2, tensorboard=False)
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = found
        for section in sections:
            place = place[section]
        place[name] = value
    return found


def run_fields(data: Path, **changes: object) -> object:
    """A run on that data set; its windows are long enough to contain a whole segment."""
    given = {
        "model__num_classes": 8,
        "data__annotations": str(data),
        "data__videos": str(data / "videos"),
        "data__arrays": str(data / "arrays"),
        "data__stride": 4,
        "evaluation__every_epochs": 1.0,
        "evaluation__thresholds": (0.1, 0.2),  # some detections of so short a run are right
        "run__save_epochs": 0.5,
    }
    found = fields(**{**given, **changes})
    found.data.untrimmed.update(SET)
    found.window.update(num_frames=32, clip_stride=4, padding=(0, 0))
    found.epochs, found.batch_size = 2, 4
    return found


def task(folder: Path = Path(), **changes: object) -> Localization:
    """The task of a small run."""
    return Localization(config.parse(fields(**changes)), folder)


def batch(step: int, size: int = 8) -> dict[str, np.ndarray]:
    """Noise whose brightness rises in an instance of each window."""
    rng = np.random.default_rng(step)
    frames = rng.integers(0, 120, (size, 16, 36, 36, 3)).astype(np.uint8)
    segments, classes = np.zeros((size, 4, 2), np.float32), np.zeros((size, 4), np.int32)
    for row in range(size):
        start, length = rng.integers(1, 8), rng.integers(2, 8)
        segments[row, 0] = start, start + length
        classes[row, 0] = rng.integers(1, 4)
        frames[row, start : start + length] += 40 * classes[row, 0].astype(np.uint8)
    num_frames = np.full(size, 16, np.int32)
    return {"frames": frames, "num_frames": num_frames, "segments": segments, "classes": classes}


def losses(num_steps: int, num_devices: int) -> None:
    """Print the losses of the first steps on that many devices."""
    mesh = Mesh(np.array(jax.devices()[:num_devices]), (devices.DATA,))
    trainer = Trainer(task(model__dtype="float64"), mesh, num_steps)
    step, state, key = trainer.compile_step(), trainer.new_state(), trainer.key()
    found = []
    for number in range(num_steps):
        arrays = jax.device_put(batch(number), devices.split_batch(mesh))
        state, metrics = step(state, arrays, key)
        found.append(float(metrics["loss"]))
    print(json.dumps({"devices": num_devices, "losses": found}), flush=True)


def evaluate(data: str, workdir: str, coordinator: str, host: str) -> None:
    """Evaluate a run as one of two hosts; prints the videos that this one reads."""
    hosts.connect(coordinator, 2, int(host))
    read = TestVideos.read

    def shown(self: TestVideos, record: int) -> dict:
        print(f"video_test_{record:07d}", flush=True)
        return read(self, record)

    TestVideos.read = shown
    runner.evaluate(run_fields(Path(data)), workdir, as_json=True)


if __name__ == "__main__":
    if sys.argv[1] == "evaluate":
        evaluate(*sys.argv[2:])
    else:
        for count in map(int, sys.argv[3].split(",")):
            losses(int(sys.argv[2]), count)
