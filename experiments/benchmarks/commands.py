"""Benchmarks of whole processes: importing, converting, predicting."""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from benchmarks.measuring import interleaved, of_command, show

PROGRAM = [sys.executable, "-m", "squeezetime_jax"]
TESTS = Path(__file__).resolve().parents[2] / "tests"
COLUMNS = {"wall s": 1.0, "CPU s": 1.0, "peak MiB": 1.0}

STATEMENTS = (
    "import flax.nnx",
    "import squeezetime_jax",
    "from squeezetime_jax import SqueezeTime",
)
_TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"

_TORCH_START = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import torch, torch_twin"
_TORCH_LOAD = f"""{_TORCH_START}
from squeezetime_jax import SqueezeTimeConfig
twin = torch_twin.Twin(SqueezeTimeConfig())
twin.load_state_dict(torch.load(sys.argv[1], weights_only=True)["state_dict"], strict=True)
"""
_WEIGHTS = """
import sys
from flax import nnx
from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.checkpoint.convert import to_torch_file
to_torch_file(sys.argv[1], SqueezeTime(SqueezeTimeConfig.k400(), nnx.Rngs(0)))
"""
_START = "import orbax.checkpoint, squeezetime_jax.checkpoint.store, jax; jax.devices()"

_PARTS = """
import sys, time
def lap(name, begin=[time.perf_counter()]):
    now = time.perf_counter()
    print(f"  {name:34} {now - begin[0]:6.2f} s")
    begin[0] = now
import jax, flax.nnx
lap("import jax, flax")
import squeezetime_jax as st
from squeezetime_jax.compilation import use_compilation_cache
checkpoint, video, views = sys.argv[1:]
use_compilation_cache()
model = st.load(checkpoint)
lap("import the rest, read the weights")
st.predict(model, video, views=views)
lap("decode, fetch the program, score")
st.predict(model, video, views=views)
lap("a second time (not part of it)")
"""


def imports(args: argparse.Namespace) -> None:
    """Processor seconds of importing the package, beside Flax NNX, on which it stands."""

    def seconds(statement: str) -> float:
        command = [sys.executable, "-c", _TIMED.format(statement)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    runs = {name: lambda number, name=name: seconds(name) for name in STATEMENTS}
    show(interleaved(runs, args.rounds), {"CPU s": 1.0}, STATEMENTS[0])


def convert(args: argparse.Namespace) -> None:
    """Converting full-size weights, beside `torch.load` and `load_state_dict` of the same file.

    Start-up, which each time includes, is measured too.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, kept = full_size_weights(folder / "full.pth"), folder / "kept"
        of_command([*PROGRAM, "convert", file, str(kept)])
        commands = {
            "start-up alone": [sys.executable, "-c", _START],
            "to a checkpoint": [*PROGRAM, "convert", file, "{folder}"],
            "back to .pth": [*PROGRAM, "convert", str(kept), "{folder}.pth"],
            "PyTorch, start-up alone": [sys.executable, "-c", _TORCH_START],
            "PyTorch, torch.load": [sys.executable, "-c", _TORCH_LOAD, file],
        }
        if importlib.util.find_spec("torch") is None:
            print("left out: PyTorch is not installed")
            commands = {name: words for name, words in commands.items() if "PyTorch" not in name}
        runs = {
            name: lambda number, words=words: of_command(
                [word.replace("{folder}", str(folder / f"{number}")) for word in words]
            )
            for name, words in commands.items()
        }
        print(f"a file of {Path(file).stat().st_size / 1e6:.1f} MB; {args.rounds} rounds")
        show(interleaved(runs, args.rounds, warm_up=0), COLUMNS, "PyTorch, torch.load")


def predict(args: argparse.Namespace) -> None:
    """`squeezetime predict` from the command to the answer, one view and thirty.

    With an empty cache of compiled programs (cold) and a filled one (warm); then the parts of a
    warm run, and the memory for a video of an hour, made of the same packets again and again.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = args.checkpoint or full_size_weights(folder / "k400.pth")
        video = args.video or ten_seconds(folder / "short.mp4")
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")
        for views in ("1x1", "10x3"):
            words = [*PROGRAM, "predict", video, "--checkpoint", checkpoint, "--views", views]
            runs = {
                f"{views} cold": lambda number, words=words: of_command(
                    words, **_caches(folder / f"cold{number}-{words[-1]}")
                ),
                f"{views} warm": lambda number, words=words: of_command(
                    words, **_caches(folder / "warm")
                ),
            }
            found = interleaved(runs, args.rounds)
            show(found, COLUMNS)
            print(f"parts of a warm run of {views}:", flush=True)
            parts = [sys.executable, "-c", _PARTS, checkpoint, video, views]
            subprocess.run(parts, env={**os.environ, **_caches(folder / "warm")}, check=True)
        if not args.video:
            words[len(PROGRAM) + 1] = repeated(video, folder / "hour.mp4", 360)
            seconds, _, peak = of_command(words, **_caches(folder / "warm"))
            ratio = peak / statistics.median(found["10x3 warm"][:, 2])
            print(f"an hour, 10x3: {seconds:.2f} s, {peak:.0f} MiB, {ratio:.3f} of ten seconds'")


def _caches(folder: Path) -> dict[str, str]:
    """Environment variables that place the compiled programs."""
    return {"XDG_CACHE_HOME": str(folder), "JAX_COMPILATION_CACHE_DIR": ""}


def full_size_weights(path: Path) -> str:
    """A `.pth` file of the released size: 50 layers, width 1, 400 classes, 119 MB.

    Another process writes it: the peak memory of a command is at least that of the process that
    starts it.
    """
    subprocess.run([sys.executable, "-c", _WEIGHTS, str(path)], check=True)
    return str(path)


def ten_seconds(path: Path) -> str:
    """A video of 340 x 256 pixels at 25 frames a second, a keyframe every second."""
    texture = np.random.default_rng(0).integers(0, 255, (34, 44, 3), np.uint8)
    texture = np.kron(texture, np.ones((10, 10, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "25", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for number in range(250):
            image = np.ascontiguousarray(texture[number % 80 :, number % 90 :][:256, :340])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def repeated(source: str, path: Path, times: int) -> str:
    """The packets of a video, again and again."""
    with av.open(source) as before, av.open(str(path), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream)
        packets = [packet for packet in before.demux(stream) if packet.dts is not None]
        length = packets[-1].dts - packets[0].dts + (packets[1].dts - packets[0].dts)
        for turn in range(times):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = packet.pts + turn * length, packet.dts + turn * length
                again.time_base, again.stream = packet.time_base, copy
                again.is_keyframe = packet.is_keyframe
                after.mux(again)
    return str(path)
