"""A clip of a two-hour film, beside a clip of a ten-second video of the same pictures."""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

FPS, MINUTE = 25, 60


def film(args: argparse.Namespace) -> None:
    """One table: the CPU milliseconds of a training clip of each."""
    from benchmarks.measuring import interleaved, show

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        minute, files = Path(folder) / "minute.mp4", {}
        write_minute(minute)
        for suffix in ("mp4", "mkv"):
            files[f"10 s, {suffix}"] = repeat(minute, Path(folder) / f"short.{suffix}", seconds=10)
            name = f"{args.minutes} min, {suffix}"
            files[name] = repeat(minute, Path(folder) / f"film.{suffix}", args.minutes * MINUTE)
            print(f"{name}: {measure_index(files[name])}")
        for suffix in ("mp4", "mkv"):
            runs = {
                name: lambda seed, path=path: clip_seconds(path, seed)
                for name, path in files.items()
                if name.endswith(suffix)
            }
            show(interleaved(runs, args.rounds), {"CPU ms": 1e3}, f"10 s, {suffix}")


def measure_index(path: Path) -> str:
    """What the first opening of a file costs, and another process's."""
    from squeezetime_jax.data import index_cache
    from squeezetime_jax.data.video import Video

    seconds = []
    for _ in range(2):
        index_cache.forget_memory()
        start = time.process_time()
        with Video(path) as opened:
            frames, size = opened.num_frames, opened.index_bytes
        seconds.append(time.process_time() - start)
    return (
        f"{frames:,} frames, {path.stat().st_size / 1e6:.0f} MB; index {size / frames:.0f} bytes a"
        f" frame, read in {seconds[0]:.2f} s, then from the disk in {seconds[1]:.3f} s"
    )


def clip_seconds(path: Path, seed: int) -> float:
    """Processor seconds of a random training clip."""
    import numpy as np

    from squeezetime_jax.data.transforms import TrainingClip
    from squeezetime_jax.data.video import Video

    start = time.process_time()
    with Video(path) as opened:
        TrainingClip().cut(opened, np.random.default_rng(seed))
    return time.process_time() - start


def write_minute(path: Path) -> None:
    """A minute of moving texture, 320 x 240, H.264 with a keyframe every two seconds."""
    import av
    import numpy as np

    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (60, 80, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as out:
        options = {"g": str(2 * FPS), "bf": "2", "preset": "veryfast"}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(FPS * MINUTE):
            frame = np.roll(texture, (number, 2 * number), (0, 1))[:240, :320]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def repeat(minute: Path, path: Path, seconds: int) -> Path:
    """A file of so many seconds, made of the minute's packets over and over."""
    import av

    with av.open(str(minute)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        packets = [(p.pts, p.dts, p.is_keyframe, bytes(p)) for p in source.demux(video=0) if p.size]
        unit = source.streams.video[0].time_base
        for pts, dts, is_key, data in _endless(packets, int(MINUTE / unit)):
            if dts * unit >= seconds:
                break
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(unit)
            packet.pts, packet.dts, packet.is_keyframe = pts, dts, is_key
            out.mux(packet)
    return path


def _endless(packets: list, length: int) -> Iterator[tuple]:
    turn = 0
    while True:
        for pts, dts, *rest in packets:
            yield pts + turn * length, dts + turn * length, *rest
        turn += 1
