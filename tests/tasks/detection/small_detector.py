"""A detection run that takes seconds; run as a program it prints losses on several devices.

python tests/tasks/detection/small_detector.py FOLDER STEPS DEVICES,... [section__field=value ...]
"""

import ast
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from squeezetime_jax.data.embedded import people
from squeezetime_jax.tasks.detection.task import Detection
from squeezetime_jax.training import config, devices, runner
from squeezetime_jax.training.step import Trainer


def fields(**changes: object):
    """Changes as `section__field=value`."""
    small = config.default("detection")
    small.epochs, small.batch_size = 2, 8
    small.model.update(depth=10, width=0.125, num_frames=4, num_classes=1 + len(people.ACTIONS))
    small.model.update(branches="tfc", strides=(1, 2, 1, 1), position_grids=(8, 4, 4, 4))
    small.model.bn_group_size = 1
    small.data.update(train="people", crop="none", crop_size=32, max_boxes=8, frame_interval=8)
    small.data.update(fps=people.FPS, start=people.START, end=people.START + people.SECONDS)
    small.data.people.update(num_train=24, num_test=6, size=32)
    # A small rate: the losses of many devices are compared.
    small.optimizer.update(learning_rate=0.01, base_batch_size=0)
    small.augmentation.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, erase=0.0)
    small.evaluation.update(every_epochs=1.0, batch_size=4)
    small.run.update(log_steps=1, tensorboard=False)
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = small
        for section in sections:
            place = place[section]
        place[name] = value
    return small


def losses(folder: str, steps: str, counts: str, *changes: str) -> None:
    """Print the losses of the first steps on each number of devices."""
    values = {name: ast.literal_eval(value) for name, value in (c.split("=") for c in changes)}
    task = Detection(config.parse(fields(**values)), Path(folder))
    data = task.training_set()
    for count in map(int, counts.split(",")):
        mesh = Mesh(np.array(jax.devices()[:count]), (devices.DATA,))
        steps_per_epoch = runner.steps_per_epoch(data, task.experiment)
        trainer = Trainer(task, mesh, steps_per_epoch)
        step, state, key = trainer.compile_step(), trainer.new_state(), trainer.key()
        found = []
        with runner.training_batches(data, task, mesh) as batches:
            for _ in range(int(steps)):
                state, metrics = step(state, next(batches), key)
                found.append(float(metrics["loss"]))
        print(json.dumps({"devices": count, "losses": found}), flush=True)


if __name__ == "__main__":
    losses(*sys.argv[1:])
