"""Read very many corrupted videos by the road that `squeezetime train` uses, and count what comes.

    python experiments/broken_videos.py 100000 --workers 8

Videos of many containers and codecs are corrupted (bits, headers, lengths, counts), a random
training clip is read of each in processes, as decoding workers do, and half of them in time. A
process that crashes or hangs, or an error of another kind, is counted, and its video is kept under
--folder. The exit status is 1 if there is one. Case k of a seed is always the same.
"""

import argparse
import collections
import functools
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from launch import at_least

from squeezetime_jax.data import workers
from squeezetime_jax.errors import UserError

# (container, codec, options)
ENCODINGS = (
    ("mp4", "libx264", {"g": "12", "bf": "3"}),
    ("mp4", "mpeg4", {"g": "10", "bf": "2"}),
    ("mp4", "libx265", {"x265-params": "log-level=none"}),
    ("avi", "mpeg4", {"g": "10"}),
    ("avi", "mjpeg", {}),
    ("matroska", "libx264", {"g": "12", "x264-params": "interlaced=1"}),
    ("webm", "libvpx", {"g": "10"}),
    ("webm", "libvpx-vp9", {"g": "10", "cpu-used": "8"}),
    ("mpegts", "libx264", {"g": "12"}),
    ("flv", "libx264", {"g": "12"}),
    ("gif", "gif", {}),
    ("ogg", "libvpx", {"g": "10"}),
)
CASES_AT_ONCE = 20  # corrupted videos of one task of a process
SECONDS = 120.0  # for all of them
FIELDS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\1\x86\xa0", b"\xa0\x86\1\0", bytes(4))


def original(container: str, codec: str, options: dict[str, str]) -> bytes:
    """A second of noise that moves."""
    import av

    texture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = texture.shape[:2]
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        for number in range(25):
            frame = np.roll(texture, (number, 2 * number), (0, 1))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()


def corrupted(originals: list[bytes], seed: int, case: int) -> bytes:
    """A broken video; the same for the same seed and case."""
    rng = np.random.default_rng([seed, case])
    chosen = int(rng.integers(len(originals)))
    data = bytearray(originals[chosen])
    reach = len(data) if rng.random() < 0.5 else min(len(data), 1500)  # half aim at the header
    kind = case % 5
    if kind == 0:
        for place in rng.integers(reach, size=rng.integers(1, 40)):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del data[int(rng.integers(len(data))) :]
    elif kind == 2:
        other = originals[(chosen + int(rng.integers(1, len(originals)))) % len(originals)]
        length = int(rng.integers(4, 1000))
        data[:length] = other[:length]
    elif kind == 3:
        for _ in range(int(rng.integers(1, 5))):
            start, length = int(rng.integers(reach)), int(rng.integers(1, 300))
            data[start : start + length] = rng.bytes(len(data[start : start + length]))
    else:
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(reach))
            data[place : place + 4] = FIELDS[int(rng.integers(len(FIELDS)))]
    return bytes(data)


def read_cases(folder: Path, seed: int, first: int) -> collections.Counter[str]:
    """Read a clip of each of some cases: how many could be read, and how many not."""
    from squeezetime_jax.data.batches import UnreadableRecord
    from squeezetime_jax.data.sources import FileSource
    from squeezetime_jax.data.transforms import TrainingClip
    from squeezetime_jax.tasks.recognition.videos import TrainingVideos

    originals = [file.read_bytes() for file in sorted(folder.glob("original-*"))]
    found: collections.Counter[str] = collections.Counter()
    for case in range(first, first + CASES_AT_ONCE):
        file = folder / f"broken-{case}.mp4"
        file.write_bytes(corrupted(originals, seed, case))
        train = object.__new__(TrainingVideos)  # without an experiment
        train._source = FileSource(folder, [(file.name, 0)])
        fps = 30.0 if case % 2 else None
        train._clip = TrainingClip(16, 4, 64, 56, "multi_scale", fps)
        try:
            clip = train.read(0, np.random.default_rng(case))["clips"]
            assert clip.shape == (16, 56, 56, 3)
            found["read"] += 1
        except UnreadableRecord as error:
            lines = "one line" if "\n" not in str(error) else "several lines"
            found[f"refused in {lines}"] += 1
        except Exception as error:  # a mistake of this package
            print(f"case {case}: {error!r}; see {file}", flush=True)
            found["raised another error"] += 1
            continue
        file.unlink()
    return found


def main() -> int:
    """Count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", type=at_least(1), help="of corrupted videos")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--workers", type=at_least(1), default=None)
    parser.add_argument("--folder", type=Path, help="for the videos; default: a temporary one")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="broken-videos-"))
    folder.mkdir(parents=True, exist_ok=True)
    for number, encoding in enumerate(ENCODINGS):
        (folder / f"original-{number:02d}").write_bytes(original(*encoding))
    counts: collections.Counter[str] = collections.Counter()
    begin = time.monotonic()
    tasks = range(0, args.number, CASES_AT_ONCE)
    read = functools.partial(read_cases, folder, args.seed)
    with workers.progress_bar("reading", len(tasks)) as progress:
        limit = {"name": lambda first: f"cases from {first}", "seconds": lambda first: SECONDS}
        for _, found in workers.each(read, tasks, args.workers, **limit):
            if isinstance(found, UserError):
                counts["crashed or hung"] += 1
                print(f"{found}; see {folder}")
            else:
                counts += found
            progress(1)
    seconds = time.monotonic() - begin
    counted = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
    print(f"{args.number:,} corrupted videos in {seconds:.0f} s: {counted}")
    return 1 if counts["crashed or hung"] or counts["raised another error"] else 0


if __name__ == "__main__":
    sys.exit(main())
