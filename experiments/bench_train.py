"""Training speed: our step beside the same network in PyTorch, and beside our own data pipeline.

    python experiments/bench_train.py [--batch 8] [--side 224] [--repeat 5] [--dtype bfloat16]
    python experiments/bench_train.py --pipeline --batch 32 --side 64 --depth 10 --width 0.5

The first form takes turns: a step of ours (forward, backward, clip, decay, momentum), a step of the
PyTorch twin of the parity tests, again and again in one run, and prints the medians and their
ratio. The second prints the share of time for which the devices wait when the loop is fed by the
pipeline from small encoded videos: 1 - (a step on a batch that lies ready) / (a step in the loop).
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from squeezetime_jax.data.augment import NONE
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.data.sources import open_source
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.tasks.recognition.experiment import Data
from squeezetime_jax.tasks.recognition.experiment import Recognition as Experiment
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.tasks.recognition.videos import TrainingVideos
from squeezetime_jax.training import devices
from squeezetime_jax.training.runner import Trainer, training_batches

REPOSITORY = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5, help="timed steps of each")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pipeline", action="store_true", help="the share of time spent waiting")
    return parser.parse_args()


def experiment(args: argparse.Namespace) -> Experiment:
    """The network and its batch, without augmentation (the twin has none)."""
    model = SqueezeTimeConfig(
        depth=args.depth, width=args.width, dropout=0.0, dtype=args.dtype, bn_group_size=None
    )
    data = Data(frame_interval=2, crop="center", crop_size=args.side, short_side=args.side)
    return Experiment(epochs=1, batch_size=args.batch, model=model, data=data, augmentation=NONE)


def batch_of(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """A batch of noise."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (args.batch, 16, args.side, args.side, 3), dtype=np.uint8)
    return {"clips": clips, "labels": rng.integers(0, 400, args.batch).astype(np.int32)}


def our_step(args: argparse.Namespace) -> Callable[[], None]:
    """One step of ours on a batch that lies ready; returns when it is done."""
    mesh = devices.data_mesh()
    run = experiment(args)
    trainer = Trainer(Recognition(run), mesh, steps_per_epoch=100)
    step, key = trainer.compile_step(), trainer.key()
    state = trainer.new_state()
    batch = jax.device_put(batch_of(args), devices.split_batch(mesh))

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)

    return run


def their_step(args: argparse.Namespace) -> Callable[[], None]:
    """One step of the PyTorch twin."""
    import torch

    sys.path.insert(0, str(REPOSITORY / "tests"))
    from torch_twin import Twin

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    twin = Twin(experiment(args).model).train().to(device)
    half = args.dtype == "bfloat16"
    if half:
        twin = twin.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9, weight_decay=7e-5)
    batch = batch_of(args)
    clips = torch.from_numpy(np.moveaxis(batch["clips"], -1, 1).astype(np.float32) / 64 - 2)
    clips, labels = clips.to(device), torch.from_numpy(batch["labels"]).long().to(device)

    def run() -> None:
        sgd.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = twin(clips)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 40)
        sgd.step()
        loss.item()

    return run


def seconds(run: Callable[[], None]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def compare(args: argparse.Namespace) -> None:
    """Both steps in turn."""
    ours, theirs = our_step(args), their_step(args)
    times: dict[str, list[float]] = {"ours": [], "PyTorch": []}
    for turn in range(args.repeat + 1):
        for name, run in (("ours", ours), ("PyTorch", theirs)):
            taken = seconds(run)
            if turn:  # the first is a warm-up
                times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median in medians.items():
        print(f"{name:8} {1e3 * median / args.batch:8.1f} ms a clip, {args.batch / median:8.1f} /s")
    print(f"ratio    {medians['PyTorch'] / medians['ours']:8.2f} (PyTorch's time / ours)")


def waiting(args: argparse.Namespace) -> None:
    """The loop's step with and without its data pipeline."""
    alone = our_step(args)
    alone()
    alone_seconds = statistics.median(seconds(alone) for _ in range(args.repeat))
    with tempfile.TemporaryDirectory() as folder:
        motion.write_motion_dataset(
            Path(folder) / "videos", num_train=8 * args.batch, num_test=8, size=args.side
        )
        source = open_source(Path(folder) / "videos" / "train.txt")
        mesh = devices.data_mesh()
        run = experiment(args)
        trainer = Trainer(Recognition(run), mesh, steps_per_epoch=100)
        step, key, state = trainer.compile_step(), trainer.key(), trainer.new_state()
        with training_batches(TrainingVideos(source, run), trainer.task, mesh) as batches:
            taken, before = [], None
            for turn in range(args.repeat + 3):
                begin = time.perf_counter()
                state, metrics = step(state, next(batches), key)
                jax.device_get(before)
                before = metrics
                if turn >= 3:
                    taken.append(time.perf_counter() - begin)
    loop_seconds = statistics.fmean(taken)
    print(f"step alone      {1e3 * alone_seconds:8.1f} ms")
    print(f"step in a loop  {1e3 * loop_seconds:8.1f} ms, fed by the pipeline")
    print(f"devices idle    {100 * max(0.0, 1 - alone_seconds / loop_seconds):8.1f} %")


def main() -> None:
    """Run what was asked for."""
    args = parse()
    kind = jax.devices()[0].device_kind
    settings = {k: v for k, v in vars(args).items() if k != "pipeline"}
    print(f"{kind}, {os.cpu_count()} cores; {settings}")
    waiting(args) if args.pipeline else compare(args)


if __name__ == "__main__":
    main()
