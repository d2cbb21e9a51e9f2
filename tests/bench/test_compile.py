"""`squeezetime compile`: for this machine's devices, and for TPU slices where libtpu is."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from squeezetime_jax.bench import compile
from squeezetime_jax.bench.compile import Program, Report
from squeezetime_jax.cli import main
from squeezetime_jax.training import config, devices, runner
from squeezetime_jax.training.step import Trainer

TINY = (
    *("model.width=0.125", "model.num_frames=4", "model.depth=10", "model.branches=tfc"),
    *("model.num_classes=8", "data.crop_size=32", "evaluation.crop_size=32"),
    *("evaluation.short_side=32", "evaluation.batch_size=8", "epochs=1", "batch_size=8"),
)


def words(*fields: str) -> list[str]:
    return ["compile", "--config=demo", *(f"--config.{field}" for field in (*TINY, *fields))]


@pytest.mark.slow
def test_the_devices_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words("model.bn_group_size=4"), "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["devices"], found["hosts"]) == (jax.device_count(), 1)
    step, evaluation = found["programs"]
    assert step["fits"]
    assert (step["name"], step["batch_size"]) == ("training step", 8)
    parts = [step[name] for name in ("arguments", "outputs", "temporaries", "code")]
    assert step["memory"] == sum(parts)
    clips = 8 * 4 * 32 * 32 * 3
    assert step["arguments"] > clips  # beside them weights and momentum
    assert step["estimate"] is None  # there are no published figures of this device
    # Forwards; forwards and backwards are about three times that.
    assert 2 < step["flops"] / evaluation["flops"] < 6
    assert "compiling the training step for" in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slices=2"], "--slices and --chips-per-host need --topology, such as v5e:4x4"),
        (["--config.optimizer.accumulation=3"], "optimizer.accumulation must divide batch_size 8"),
        (["--config.modle.width=1"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*words(), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("squeezetime compile: ")
    assert message in line


def test_a_topology_needs_libtpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert main([*words(), "--topology=v5e:4x4"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"libtpu, which is not installed; run pip install 'jax[tpu]=={jax.__version__}'" in line


def program(**changes: object) -> Program:
    values = {
        **{"name": "training step", "batch_size": 32, "fits": True, "seconds": 60.0},
        **{"memory": 5 << 30, "arguments": 1 << 30, "outputs": 0, "temporaries": 4 << 30},
        **{"code": 0, "flops": 1.97e12, "bytes_accessed": 8.19e9, "collective_bytes": 60_000_000},
        "estimate": {"compute": 0.01, "memory": 0.02},
    }
    return Program(**{**values, **changes})  # type: ignore[arg-type]


def report(step: Program, nearest: Program | None = None) -> Report:
    return Report(
        device="TPU v5 lite",
        devices=8,
        hosts=2,
        device_memory=16 << 30,
        batch_size=step.batch_size,
        programs=[step],
        nearest=nearest,
        notes=[],
    )


def test_the_report_says_what_bounds_a_step() -> None:
    assert compile.as_text(report(program())).splitlines() == [
        "8 devices of 2 hosts: TPU v5 lite",
        "",
        "training step, batch of 32 (4 a device), compiled in 60 s",
        "  fits: memory of a device 5.000 GiB of 16.000 GiB (arguments 1.000 GiB, outputs 0.000"
        " GiB, temporaries 4.000 GiB, program 0.000 GiB)",
        "  a device computes 1.97 TFLOP, reads and writes 8.19 GB, receives 60 MB from others",
        "  estimate: at best 20 ms, bounded by its memory's bandwidth (arithmetic 10 ms, memory 20"
        " ms at the chip's published rates)",
    ]


def test_the_report_names_the_nearest_batch_that_fits() -> None:
    too_large = Program(
        name="training step", batch_size=64, fits=False, seconds=9.0, memory=20 << 30
    )
    lines = compile.as_text(report(too_large, program())).splitlines()
    assert "  does not fit: memory of a device 20.000 GiB of 16.000 GiB" in lines
    assert "the nearest batch that fits: --config.batch_size=32" in lines
    assert "no smaller batch that fits" in compile.as_text(report(too_large))


def test_the_memory_of_what_does_not_fit_is_read_from_the_refusal() -> None:
    message = "Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded hbm"
    assert compile._used(message) == 24.5 * 2**30
    assert compile._used("out of something else") is None


def test_smaller_batches_are_tried_until_one_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a stand-in for the compiler: a twelfth of the state's bytes for each clip."""
    fields = config.read([*words("batch_size=12", "model.bn_group_size=2")[1:]])
    task = runner.open_task(fields, tmp_path)
    state = Trainer(task, devices.data_mesh(1), 1).abstract_state()
    fixed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    tried = []

    def training_step(task, mesh) -> Program:  # type: ignore[no-untyped-def]
        size = task.experiment.batch_size
        tried.append(size)
        memory = fixed + fixed * size // 12
        return program(batch_size=size, fits=memory <= 1.4 * fixed, memory=memory)

    monkeypatch.setattr(compile, "_training_step", training_step)
    monkeypatch.setattr(compile, "memory_of", lambda device, row: fixed * 3 // 2)
    monkeypatch.setattr(
        "squeezetime_jax.tasks.recognition.task.Recognition.lower_evaluation",
        lambda task, mesh: {},
    )
    found = compile.examine(fields, jax.devices()[:1])
    assert tried == [12, 6, 4]
    assert not found.programs[0].fits
    assert found.nearest is not None
    assert found.nearest.batch_size == 4


# A process of its own: libtpu must be prepared before JAX looks for devices. The answers are those
# of a step as small as the tests' own; the network's size does not matter here.
SLICES = """
import json, sys
from squeezetime_jax.bench import chips, compile
from squeezetime_jax.training import config, devices
found = []
for slices in (1, 2):
    row = chips.open_devices("v5e:4x4", slices)
    mesh = devices.data_mesh(devices=row)
    order = [(device.process_index, device.id) for device in mesh.devices.flat]
    fields = config.read([*sys.argv[1:], f"--config.batch_size={32 * slices}"])
    task = compile.runner.open_task(fields, compile.Path("."))
    step = compile._training_step(task, mesh)
    found.append([order, step.flops, step.bytes_accessed, step.collective_bytes])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.needs("libtpu")
def test_a_slice_of_16_chips_and_two_of_them() -> None:
    fields = words("model.bn_group_size=2")[1:]
    command = [sys.executable, "-c", SLICES, *fields]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    for (order, *_), hosts in ((one, 4), (two, 8)):
        assert order == sorted(order)
        # A host's four chips, and with them its rows of the batch, are neighbours.
        assert [process for process, _ in order] == [k for k in range(hosts) for _ in range(4)]
    assert two[1] == pytest.approx(one[1], rel=0.1)  # operations of a chip
    assert one[3] > 0
    assert two[3] > one[3]  # also between the slices
    # The gradient, and batch norm's statistics: no clip moves between chips.
    assert two[3] < 0.1 * two[2]


@pytest.mark.needs("libtpu")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topology=abc"], "expected CHIP:SHAPE, such as v5e:4x4"),
        (["--topology=v9:2x2"], "Invalid TPU external name: TPU v9"),
        (["--topology=v5e:3x5"], "not divisible"),
        (["--topology=v5e:4x4", "--chips-per-host=two"], "--chips-per-host: expected a shape"),
        (["--topology=v5e:4x4"], "batch_size 8 is not a multiple of the 16 devices; choose 16"),
    ],
)
def test_what_libtpu_does_not_know_is_one_line(options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "squeezetime_jax", *words(), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "fields", "shape"),
    [
        ("demo", ["model.name=tsm_r18", "evaluation.batch_size=3"], (3, 1, 8, 40, 40, 3)),
        ("ava_demo", ["evaluation.batch_size=5"], (5, 16, 48, 48, 3)),
        ("thumos14:demo", [], (16, 16, 40, 40, 3)),
    ],
)
def test_the_evaluation_of_each_task_is_lowered_without_its_data(
    name: str, fields: list[str], shape: tuple[int, ...], tmp_path: Path
) -> None:
    small = ["model.width=0.125", "model.depth=10"] if name != "demo" else []
    words = [f"--config.{field}" for field in (*small, *fields)]
    task = runner.open_task(config.read([f"--config={name}", *words]), tmp_path)
    (lowered,) = task.lower_evaluation(devices.data_mesh(1)).values()
    arrays = jax.tree.leaves(lowered.in_avals)
    assert [x.shape for x in arrays if x.dtype == np.uint8] == [shape]
    assert not list(tmp_path.iterdir())
