"""What the device-side augmentation costs, as a share of a training step.

python experiments/bench_augment.py [--batch 64] [--size 224]

Prints medians of interleaved rounds, in ms: the augmentation alone, normalisation alone (the
baseline), and a whole training step with the one and with the other; the share is
`(with augmentation - with normalisation) / with augmentation`.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from squeezetime_jax.data.augment import NONE, Augmentation, augment
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime


def training_step(config: SqueezeTimeConfig, augmentation: Augmentation):
    model = SqueezeTime(config, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3, momentum=0.9), wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, key, clips, labels):
        model, optimizer = nnx.merge(graph, state)
        clips, labels = augment(key, clips, labels, augmentation, jnp.dtype(config.dtype))

        def loss(model):
            logits = model(clips).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))
        return nnx.state((model, optimizer))

    holder = [state]

    def run(key, clips, labels):
        holder[0] = step(holder[0], key, clips, labels)
        return holder[0]

    return run


def milliseconds(run: Callable, *args) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4 if on_cpu else 64)
    parser.add_argument("--size", type=int, default=112 if on_cpu else 224)
    parser.add_argument("--rounds", type=int, default=5 if on_cpu else 20)
    parser.add_argument("--dtype", default="float32" if on_cpu else "bfloat16")
    args = parser.parse_args()

    config = SqueezeTimeConfig(dropout=0.0, dtype=args.dtype)
    only = jax.jit(augment, static_argnums=(3, 4))
    runs = {
        "normalise": lambda *a: only(*a, NONE, jnp.dtype(args.dtype)),
        "augment": lambda *a: only(*a, Augmentation(), jnp.dtype(args.dtype)),
        "step, normalise": training_step(config, NONE),
        "step, augment": training_step(config, Augmentation()),
    }
    rng = np.random.default_rng(0)
    shape = (args.batch, config.num_frames, args.size, args.size, 3)
    clips = jnp.asarray(rng.integers(0, 256, shape).astype(np.uint8))
    labels = jnp.asarray(rng.integers(0, config.num_classes, args.batch))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            taken = milliseconds(run, jax.random.key(number), clips, labels)
            if number:  # the first round compiles
                times[name].append(taken)

    device = jax.devices()[0].device_kind
    print(f"{device}, batch {args.batch}, {args.size} px, {args.dtype}, {args.rounds} rounds")
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median in medians.items():
        print(f"{name:16s} {median:9.1f} ms")
    share = 1 - medians["step, normalise"] / medians["step, augment"]
    alone = (medians["augment"] - medians["normalise"]) / medians["step, augment"]
    print(f"share of a step  {share:9.1%}  (from the parts alone: {alone:.1%})")


if __name__ == "__main__":
    main()
