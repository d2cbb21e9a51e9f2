"""A run of detection that takes seconds: a few tiny videos, a tiny network."""

import ast
import json
import sys
from pathlib import Path

import jax

from squeezetime_jax.data.embedded import people
from squeezetime_jax.tasks.detection import config as detection
from squeezetime_jax.tasks.detection.dataset import open_split
from squeezetime_jax.tasks.detection.experiment import TrainingClips, parse, with_files
from squeezetime_jax.tasks.detection.task import Detection
from squeezetime_jax.training import config, devices, run


def fields(**changes: object):
    """Changes as `section__field=value`."""
    small = config.default(detection.Experiment)
    small.epochs, small.batch_size = 2, 8
    small.model.update(depth=10, width=0.125, num_frames=4, num_classes=1 + len(people.ACTIONS))
    small.model.update(branches="tfc", strides=(1, 2, 1, 1), position_grids=(8, 4, 4, 4))
    small.model.bn_group_size = 1
    small.data.update(train="people", crop="none", crop_size=32, max_boxes=8, frame_interval=8)
    small.data.update(fps=people.FPS, start=people.START, end=people.START + people.SECONDS)
    small.data.people.update(num_train=24, num_test=6, size=32)
    # The optimiser is to magnify nothing: losses of many devices are compared.
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


def losses(folder: str, steps: str, counts: str, *changes: str) -> int:
    """Print the losses of the first steps on each number of devices."""
    values = {name: ast.literal_eval(value) for name, value in (c.split("=") for c in changes)}
    experiment = parse(fields(**values))
    data = with_files(experiment, Path(folder))
    model = experiment.model
    split = open_split(data, "train", model.num_classes, model.num_frames)
    kind = (jax.sharding.AxisType.Auto,)
    for count in map(int, counts.split(",")):
        mesh = jax.make_mesh((count,), ("data",), kind, devices=jax.devices()[:count])
        clips = TrainingClips(experiment, data, split, mesh)
        trainer = run.Trainer(experiment, Detection(experiment), mesh, clips.steps_per_epoch)
        step, state, key = trainer.compile_step(), trainer.new_state(), trainer.key()
        found = []
        with clips.batches(0) as batches:
            for _ in range(int(steps)):
                state, metrics = step(state, next(batches), key)
                found.append(float(metrics["loss"]))
        print(json.dumps({"devices": count, "losses": found}), flush=True)
    return 0


if __name__ == "__main__":
    devices.connect()
    sys.exit(losses(*sys.argv[1:]))
