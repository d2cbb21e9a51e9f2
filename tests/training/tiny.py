"""The smallest experiment, on made-up clips; run as a program it trains in a process of its own.

python tests/training/tiny.py train WORKDIR [section__field=value ...]
python tests/training/tiny.py losses STEPS DEVICES,... [section__field=value ...]
"""

import ast
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from squeezetime_jax.data.batches import local_rows, to_devices
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.training import config, devices, loop, run
from squeezetime_jax.training.plan import Experiment

STEPS_PER_EPOCH = 5


def experiment(**changes: object) -> Experiment:
    """32 clips of 4 frames of 64 x 64 pixels a step; changes as `section__field=value`."""
    fields = config.default()
    fields.epochs, fields.batch_size = 2, 32
    # One branch alone: a program that compiles in a third of the time.
    fields.model.update(depth=10, width=0.125, num_frames=4, num_classes=4, bn_group_size=4)
    fields.model.branches = "tfc"
    fields.model.position_grids = (16, 8, 4, 2)
    fields.data.update(crop_size=64, short_side=64)
    fields.optimizer.update(learning_rate=0.00075, base_batch_size=0, warmup_epochs=1.0)
    colours = ("brightness", "contrast", "saturation", "hue")
    fields.augmentation.update(dict.fromkeys(colours, 0.0), erase=0.0)
    fields.evaluation.every_epochs = 0.0
    fields.run.update(log_steps=2, tensorboard=False)
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = fields
        for section in sections:
            place = place[section]
        place[name] = value
    return config.parse(fields)


def mesh_of(num_devices: int) -> Mesh:
    """The first few devices in a row."""
    kind = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((num_devices,), ("data",), kind, devices=jax.devices()[:num_devices])


def trainer(tiny: Experiment, mesh: Mesh) -> run.Trainer:
    """The experiment's trainer."""
    return run.Trainer(tiny, Recognition(tiny), mesh, STEPS_PER_EPOCH)


class MadeUpData:
    """Blocks of noise with a brightness that tells the class, different in each step."""

    steps_per_epoch = STEPS_PER_EPOCH
    labels = None

    def __init__(self, experiment: Experiment, mesh: Mesh):
        self.experiment, self.mesh = experiment, mesh

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The whole batch of a step."""
        rng = np.random.default_rng([self.experiment.seed, step])
        n, model = self.experiment.batch_size, self.experiment.model
        side = self.experiment.data.crop_size
        labels = rng.integers(0, model.num_classes, n).astype(np.int32)
        # Blocks of noise of a strength of their own: clips that batch norm tells apart well.
        blocks = rng.standard_normal((n, model.num_frames, 4, 4, 3))
        blocks *= rng.uniform(10, 60, (n, 1, 1, 1, 1))
        blocks += 70 + 40 * labels[:, None, None, None, None]
        pixels = np.clip(blocks, 0, 255).astype(np.uint8)
        clips = pixels.repeat(side // 4, axis=2).repeat(side // 4, axis=3)
        return {"clips": clips, "labels": labels}

    @contextlib.contextmanager
    def batches(self, start_step: int) -> Iterator[Iterator[dict[str, jax.Array]]]:
        """Batches on the devices."""
        split = devices.split_batch(self.mesh)
        mine = local_rows(split, self.experiment.batch_size)
        local = (
            {name: values[mine] for name, values in self.batch(step).items()}
            for step in itertools.count(start_step)
        )
        with to_devices(local, split) as batches:
            yield batches


def brightness_of_weights(model: SqueezeTime) -> dict[str, float]:
    """A stand-in for an evaluation: cheap, and different after each step."""
    kernel = np.asarray(model.head.classifier.kernel[...])
    return {"top1": float(np.abs(kernel).mean())}


def train(workdir: str, *fields: str) -> int:
    """Train; values of changed fields as Python writes them."""
    changes = {name: ast.literal_eval(value) for name, value in (f.split("=") for f in fields)}
    tiny = experiment(**changes)
    data = MadeUpData(tiny, devices.data_mesh())
    try:
        run.train(tiny, Path(workdir), Recognition(tiny), data, brightness_of_weights)
    except loop.Preempted as stopped:
        print(stopped, flush=True)
        return 143
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


def losses(steps: str, counts: str, *fields: str) -> int:
    """Print the losses of the first steps and what is exchanged, for each number of devices."""
    changes = {name: ast.literal_eval(value) for name, value in (f.split("=") for f in fields)}
    for count in map(int, counts.split(",")):
        tiny = experiment(**changes)
        mesh = mesh_of(count or jax.device_count())
        made = trainer(tiny, mesh)
        step, state, key = made.compile_step(), made.new_state(), made.key()
        found = []
        with MadeUpData(tiny, mesh).batches(0) as batches:
            for _ in range(int(steps)):
                state, metrics = step(state, next(batches), key)
                found.append(float(metrics["loss"]))
        sizes = {
            "params": sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)),
            "collectives": devices.collective_bytes(step.as_text()),
        }
        print(json.dumps({"devices": count, "losses": found, **sizes}), flush=True)
    return 0


if __name__ == "__main__":
    devices.connect()
    sys.exit({"train": train, "losses": losses}[sys.argv[1]](*sys.argv[2:]))
