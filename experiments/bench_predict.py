"""How long `squeezetime predict` takes from the command to the answer, and what memory it needs.

    python experiments/bench_predict.py [--repeat 5] [--checkpoint CKPT] [--video VIDEO]

Without files it makes a network of full size with random weights and a video of ten seconds. It
prints medians of wall-clock and processor seconds, with an empty cache of compiled programs (cold)
and with a filled one (warm), for one view and for thirty; where a warm run's seconds go; and the
peak memory for the ten-second video and for one of an hour, made of the same packets again and
again. Baseline: mmaction2 on 2 cores from import to answer, 3.2 s for one view, 6.8 s for thirty.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

STAGES = """
import time
begin = time.perf_counter()
def lap(name):
    global begin
    now = time.perf_counter()
    print(f"  {name:34} {now - begin:6.2f} s")
    begin = now
import sys
checkpoint, video, views = sys.argv[1:]
import jax, flax.nnx
lap("import jax, flax")
from squeezetime_jax.evaluation import predict as command
from squeezetime_jax.evaluation.predict import read_views
from squeezetime_jax.evaluation.views import Scorer
lap("import the rest")
model, protocol = command.Choices(checkpoint=checkpoint, views=views).open()
lap("read the weights")
clips = read_views(video, protocol)[None]
lap("decode, resize, crop")
scorer = Scorer(model)
scorer.scores(clips).block_until_ready()
lap("trace, fetch the program, first run")
scorer.scores(clips).block_until_ready()
lap("a second run (not part of it)")
"""


def predict(checkpoint: str, video: str, views: str, cache: str) -> tuple[float, float, float]:
    """Wall-clock seconds, processor seconds and peak MiB of one command."""
    command = [sys.executable, "-m", "squeezetime_jax", "predict", video]
    command += ["--checkpoint", checkpoint, "--views", views, "--json"]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, "XDG_CACHE_HOME": cache}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    assert status == 0, answer
    assert "top" in json.loads(answer), answer
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def median(runs: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    wall, processor, peak = (statistics.median(column) for column in zip(*runs, strict=True))
    return wall, processor, peak


def full_size_checkpoint(path: Path) -> str:
    from flax import nnx

    from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
    from squeezetime_jax.checkpoint.convert import to_torch_file

    to_torch_file(path, SqueezeTime(SqueezeTimeConfig.k400(), nnx.Rngs(0)))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--checkpoint")
    parser.add_argument("--video")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        checkpoint = args.checkpoint or full_size_checkpoint(place / "k400.pth")
        video = args.video or ten_seconds(place / "short.mp4")
        print("wall-clock seconds (processor seconds), medians; load", os.getloadavg()[0])
        for views in ("1x1", "10x3"):
            cold = [
                predict(checkpoint, video, views, str(place / f"cache-{views}-{turn}"))
                for turn in range(max(args.repeat // 2, 1))
            ]
            cache = str(place / f"cache-{views}-0")
            warm = [predict(checkpoint, video, views, cache) for _ in range(args.repeat)]
            for name, runs in (("cold", cold), ("warm", warm)):
                wall, processor, peak = median(runs)
                print(f"{views:>5} {name}: {wall:6.2f} ({processor:6.2f})  peak {peak:6.0f} MiB")
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            print(f"where a warm run of {views} goes:", flush=True)
            subprocess.run(
                [sys.executable, "-c", STAGES, checkpoint, video, views],
                env=environment,
                check=True,
            )
            if not args.video and views == "10x3":
                hour = repeated(video, place / "hour.mp4", 360)
                size = Path(hour).stat().st_size / 1e6
                wall, _, peak_hour = predict(checkpoint, hour, views, cache)
                ratio = peak_hour / median(warm)[2]
                print(
                    f"an hour ({size:.0f} MB): {wall:.2f} s, peak {peak_hour:.0f} MiB,"
                    f" {ratio:.3f} times that of ten seconds"
                )


if __name__ == "__main__":
    sys.exit(main())
