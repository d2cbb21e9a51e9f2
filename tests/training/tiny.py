"""The smallest experiment, on made-up clips; run as a program it trains in a process of its own.

python tests/training/tiny.py train WORKDIR [section__field=value ...]
python tests/training/tiny.py losses STEPS DEVICES,... [section__field=value ...]
"""

import ast
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from squeezetime_jax import hosts
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.scoring import Rows, Scores, TestSet
from squeezetime_jax.model.config import NetworkConfig, SqueezeTimeConfig
from squeezetime_jax.model.layers import Conv, Linear, initialise
from squeezetime_jax.model.norm import BatchNorm
from squeezetime_jax.peers import entry, published, registry
from squeezetime_jax.tasks.recognition.experiment import Recognition as Experiment
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.training import config, devices, loop, runner
from squeezetime_jax.training.step import Trainer
from squeezetime_jax.training.task import TrainingSet

STEPS_PER_EPOCH = 5
# A pause in each reading of a clip, for tests that have to interrupt a run.
PAUSE = float(os.environ.get("TINY_PAUSE", "0"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig(NetworkConfig):
    """A network whose programs compile in a second."""

    name: str = "tiny"
    num_frames: int = 4
    num_classes: int = 4
    bn_group_size: int | None = 4


class TinyHead(nnx.Module):
    """An average, dropout and a classifier."""

    def __init__(self, in_features: int, config: TinyConfig):
        self.dropout = nnx.Dropout(config.dropout)
        self.classifier = Linear(in_features, config.num_classes, config)

    def __call__(self, x: jax.Array, rngs: Any = None) -> jax.Array:
        return self.classifier(self.dropout(jnp.mean(x, (1, 2)), rngs=rngs))


class TinyNetwork(nnx.Module):
    """A convolution of the squeezed frames, batch norm, and a head with dropout."""

    def __init__(self, config: TinyConfig, rngs: nnx.Rngs):
        self.config = config
        self.conv = Conv(3 * config.num_frames, 8, 3, config, stride=2)
        self.norm = BatchNorm(8, config)
        self.head = TinyHead(8, config)
        initialise(self, rngs)

    def features(self, clips: jax.Array) -> jax.Array:
        n, t, h, w, c = clips.shape
        x = jnp.moveaxis(clips, 1, 4).reshape(n, h, w, c * t)
        return jax.nn.relu(self.norm(self.conv(x)))

    def __call__(self, clips: jax.Array, rngs: Any = None) -> jax.Array:
        return self.head(self.features(clips), rngs)


registry._ENTRIES["tiny"] = dataclasses.replace(
    registry.entry_of("squeezetime"), config=TinyConfig(), build=TinyNetwork
)
published.PUBLISHED["tiny"] = dataclasses.replace(
    published.PUBLISHED["squeezetime"], paper_cpu_ms=None
)
assert isinstance(registry.entry_of("tiny"), entry.Entry)


def experiment(**changes: object) -> Experiment:
    """32 clips of 4 frames of 16 x 16 pixels a step; changes as `section__field=value`.

    `network="squeezetime"` is SqueezeTime, with 32 x 32 pixels.
    """
    fields = config.default()
    fields.epochs, fields.batch_size = 2, 32
    fields.data.update(crop_size=16, short_side=16)
    config.set_network(fields, TinyConfig())
    if changes.pop("network", "tiny") == "squeezetime":
        small = {"position_grids": (8, 4, 2, 1), "num_classes": 4, "bn_group_size": 4}
        config.set_network(fields, SqueezeTimeConfig.tiny(branches="tfc", **small))
        fields.data.update(crop_size=32, short_side=32)
    fields.optimizer.update(learning_rate=0.05, base_batch_size=0, warmup_epochs=1.0)
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


def trainer(tiny: Experiment, mesh: Mesh) -> Trainer:
    """The experiment's trainer."""
    return Trainer(Tiny(tiny), mesh, STEPS_PER_EPOCH)


class Blocks(TrainingSet):
    """Clips of blocks of noise with a brightness that tells the class."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment

    def __len__(self) -> int:
        return STEPS_PER_EPOCH * self._experiment.batch_size

    def read(self, record: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        time.sleep(PAUSE)
        model, side = self._experiment.model, self._experiment.data.crop_size
        label = np.int32(record % model.num_classes)
        # Each clip has its own strength of noise, so that batch norm tells clips apart.
        blocks = rng.standard_normal((model.num_frames, 4, 4, 3)) * rng.uniform(10, 60)
        pixels = np.clip(blocks + 70 + 40 * label, 0, 255).astype(np.uint8)
        return {"clips": pixels.repeat(side // 4, 1).repeat(side // 4, 2), "labels": label}


@dataclasses.dataclass(frozen=True)
class OneNumber(Scores):
    """A score."""

    top1: float

    def numbers(self) -> dict[str, float]:
        return {"top1": self.top1}

    def to_json(self) -> dict[str, Any]:
        return self.numbers()

    def table(self) -> str:
        return str(self.top1)

    def figure(self) -> Any:
        raise NotImplementedError

    def write(self, path: Path) -> None:
        raise NotImplementedError


class Weights(TestSet):
    """A test set of one record, which is scored by the weights alone."""

    def __len__(self) -> int:
        return 1

    def read(self, record: int) -> Any:
        return {}

    def predictor(self, model: Any, mesh: Mesh) -> Any:
        kernel = np.asarray(model.head.classifier.kernel[...])
        return lambda sample: {"mean": float(np.abs(kernel).mean())}

    def score(self, rows: Rows) -> OneNumber:
        return OneNumber(float(rows["mean"][0]))


class Tiny(Recognition):
    """Recognition of the blocks' brightness."""

    def training_set(self) -> Blocks:
        return Blocks(self.experiment)

    def test_set(self, checkpoint: str | None = None) -> Weights:
        return Weights()


def run(workdir: Path, **changes: object) -> runner.Result:
    """Train the experiment, as `squeezetime train` does."""
    return runner.run(Tiny(experiment(**changes), workdir))


def train(workdir: str, *fields: str) -> int:
    """Train; values of changed fields as Python writes them."""
    changes = {name: ast.literal_eval(value) for name, value in (f.split("=") for f in fields)}
    try:
        with hosts.together("tiny"):
            try:
                run(Path(workdir), **changes)
            except loop.Preempted as stopped:
                print(stopped, flush=True)
                return 128 + stopped.signal
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


def losses(steps: str, counts: str, *fields: str) -> int:
    """Print the losses of the first steps, and the bytes that devices exchange in one."""
    changes = {name: ast.literal_eval(value) for name, value in (f.split("=") for f in fields)}
    for count in map(int, counts.split(",")):
        tiny = experiment(**changes)
        mesh = devices.data_mesh(count or None)
        made = trainer(tiny, mesh)
        step, state, key = made.compile_step(), made.new_state(), made.key()
        found = []
        with runner.training_batches(Blocks(tiny), made.task, mesh) as batches:
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
    hosts.connect()
    sys.exit({"train": train, "losses": losses}[sys.argv[1]](*sys.argv[2:]))
