"""The losses of the same run on any number of processes and devices.

From video files, with augmentation and mixup, in batches of 32 clips in groups of 8, computed in
two parts (except for localisation, whose loss cannot be).

    python tests/training/layouts.py compare FOLDER [--float64] [--tasks T ...] [--layouts 2x1 ...]
    python tests/training/layouts.py losses FOLDER TASK,... STEPS DEVICES,...     # a process
    python tests/training/layouts.py scores FOLDER TASK,... 0 0                   # a process

A layout 2x4 is two processes of four devices each. `compare` prints the largest difference of each
layout's losses from those of one device.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
for _folder in ("tasks/detection", "tasks/localization"):
    sys.path.insert(0, str(TESTS / _folder))

import jax  # noqa: E402
import small_detector  # noqa: E402
import small_localizer  # noqa: E402
from processes import finish, free_port, start_program  # noqa: E402

from squeezetime_jax import hosts  # noqa: E402
from squeezetime_jax.data.batches import UnreadableRecord  # noqa: E402
from squeezetime_jax.errors import UserError  # noqa: E402
from squeezetime_jax.evaluation import scoring  # noqa: E402
from squeezetime_jax.training import config, devices, runner  # noqa: E402
from squeezetime_jax.training.step import Trainer  # noqa: E402

TASKS = ("recognition", "detection", "localization")
LAYOUTS = ("1x2", "1x4", "1x8", "2x1", "2x2", "4x1", "4x2")
STEPS = {"float32": 10, "float64": 30}


def fields(task: str) -> Any:
    """The config of a task's run; float64 where JAX computes in it."""
    if task == "detection":
        found = small_detector.fields()
        found.data.people.update(num_train=40)
    elif task == "localization":
        found = small_localizer.run_fields(Path("untrimmed"))
        found.data.update(annotations="untrimmed", videos="", arrays="", stride=1)
        found.data.untrimmed.num_train = 8
    else:
        found = config.default()
        found.model.update(depth=10, width=0.125, num_frames=4, num_classes=0, branches="tfc")
        found.model.position_grids = (8, 4, 2, 1)
        found.data.update(train="motion", short_side=32, crop_size=32)
        found.data.motion.update(num_train=96, num_test=12, num_frames=8, size=32)
        found.optimizer.update(mixup=0.2, cutmix=0.5, label_smoothing=0.1)
    # A small rate: training magnifies differences of rounding.
    parts = 1 if task == "localization" else 2  # its loss cannot be computed in parts
    found.optimizer.update(learning_rate=0.002, base_batch_size=0, accumulation=parts)
    if task == "localization":
        # Adam divides a gradient by its own size: where it is 0 but for rounding, by rounding. The
        # first gradients have a norm of hundreds, and a step at a higher rate is chaotic.
        found.optimizer.update(method="sgd", learning_rate=1e-6)
    found.epochs, found.batch_size, found.model.bn_group_size = 10, 32, 8
    found.evaluation.every_epochs = 0.0
    if "batch_size" in found.evaluation:
        found.evaluation.batch_size = 3  # rounded up to the devices
    found.model.dtype = "float64" if jax.config.read("jax_enable_x64") else "float32"
    return found


def losses(folder: Path, name: str, steps: int, counts: list[int]) -> None:
    """Print the losses of the first steps on each number of devices; 0 is all."""
    task = runner.open_task(fields(name), folder / name)
    data = task.training_set()
    for count in counts:
        mesh = devices.data_mesh(count or None)
        trainer = Trainer(task, mesh, runner.steps_per_epoch(data, task.experiment))
        step, state, key = trainer.compile_step(), trainer.new_state(), trainer.key()
        hosts.meet("compiled")
        found = []
        with runner.training_batches(data, task, mesh) as batches:
            for _ in range(steps):
                state, metrics = step(state, next(batches), key)
                found.append(float(metrics["loss"]))
        print(json.dumps({"task": name, "devices": mesh.size, "losses": found}), flush=True)


def scores(folder: Path, name: str) -> None:
    """Print the scores of the first weights; and again where a record cannot be read."""
    task = runner.open_task(fields(name), folder / name)
    test, model, mesh = task.test_set(), task.network.merge(*task.init()), devices.data_mesh()
    assert test is not None
    whole = scoring.score(test, model, mesh).scores.numbers()
    read = test.read

    def read_but_one(record: int) -> Any:
        if record == 1:
            raise UnreadableRecord("one.mp4", "one.mp4: damaged")
        return read(record)

    test.read = read_but_one  # type: ignore[method-assign]
    message = ""
    try:
        scoring.score(test, model, mesh)
    except UserError as error:
        message = str(error)
    rest = scoring.score(test, model, mesh, skip_unreadable=True)
    found = {"task": name, "whole": whole, "error": message, "count": rest.num_records}
    print(json.dumps({**found, "rest": rest.scores.numbers()}), flush=True)


def run(
    folder: Path,
    names: list[str],
    steps: int,
    layout: str,
    counts: str = "0",
    what: str = "losses",
    **environment: str,
) -> list[dict]:
    """What every process of a layout printed; raises where they differ from each other."""
    processes, per_process = map(int, layout.split("x"))
    common = {}
    if processes > 1:
        common["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free_port()}"
        common["JAX_NUM_PROCESSES"] = str(processes)
    words = (what, folder, ",".join(names), steps, counts)
    started: list[subprocess.Popen] = [
        start_program(
            Path(__file__),
            *words,
            num_devices=per_process,
            **common,
            **({"JAX_PROCESS_ID": str(number)} if common else {}),
            **environment,
        )
        for number in range(processes)
    ]
    ends = [finish(process) for process in started]
    for status, _, err in ends:
        assert status == 0, err
    printed = [
        [json.loads(line) for line in out.splitlines() if line[0] == "{"] for _, out, _ in ends
    ]
    assert all(each == printed[0] for each in printed)
    return printed[0]


def compare(folder: Path, names: list[str], layouts: list[str], dtype: str) -> None:
    """Print the differences of layouts from one device."""
    environment = {"JAX_ENABLE_X64": "1"} if dtype == "float64" else {}
    steps = STEPS[dtype]
    reference = {
        line["task"]: line["losses"] for line in run(folder, names, steps, "1x1", **environment)
    }
    for layout in layouts:
        for line in run(folder, names, steps, layout, **environment):
            pairs = zip(line["losses"], reference[line["task"]], strict=True)
            largest = max(abs(a - b) for a, b in pairs)
            first = ", ".join(f"{loss:.6f}" for loss in line["losses"][:2])
            print(
                f"{line['task']:13} {dtype} {layout} {steps} steps: {largest:.1e}  ({first}, ...)",
                flush=True,
            )


def main() -> None:
    if sys.argv[1] in ("losses", "scores"):
        folder, names, steps, counts = sys.argv[2:]
        with hosts.together("layouts"):
            for name in names.split(","):
                if sys.argv[1] == "scores":
                    scores(Path(folder), name)
                else:
                    losses(Path(folder), name, int(steps), [int(n) for n in counts.split(",")])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS))
    args = parser.parse_args()
    compare(args.folder, args.tasks, args.layouts, "float64" if args.float64 else "float32")


if __name__ == "__main__":
    main()
