"""Reads broken videos for `test_video_fuzz`, in a process that may die; prints what came of each.

    python fuzz_worker.py FOLDER SEED FIRST LAST

Reads the folder's `given-*` as they are, and its `original-*` broken, for cases FIRST to LAST - 1.
Each line is a case and its outcome; the last is the peak of the memory in MiB.
"""

import faulthandler
import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from squeezetime_jax.data import transforms, video

KINDS = ("flip bits", "truncate", "swap headers", "zero bytes", "rename text", "set fields")
TEXTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile /etc/passwd\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "1\n00:00:01,000 --> 00:00:02,000\nsubtitle\n\n",
    "<!DOCTYPE html><html><body>404 not found</body></html>",
    "a video that is none\n" * 50,
    "RIFF\0\0\0\0AVI LIST",
    "",
)


def corrupted(originals: list[bytes], seed: int, case: int) -> bytes:
    """A broken video; the same for the same seed and case."""
    rng = np.random.default_rng([seed, case])
    kind = KINDS[case % len(KINDS)]
    data = bytearray(originals[case // len(KINDS) % len(originals)])
    if kind == "flip bits":
        # Half of the cases aim at the header, where most harm is done.
        reach = len(data) if rng.random() < 0.5 else min(len(data), 1500)
        for place in rng.integers(reach, size=rng.integers(1, 40)):
            data[place] ^= 1 << rng.integers(8)
    elif kind == "truncate":
        del data[rng.integers(len(data)) :]
    elif kind == "swap headers":
        other = originals[rng.integers(len(originals))]
        length = int(rng.integers(4, 1000))
        data[:length] = other[:length]
    elif kind == "zero bytes":
        for _ in range(rng.integers(1, 5)):
            start, length = rng.integers(len(data)), int(rng.integers(1, 300))
            data[start : start + length] = bytes(len(data[start : start + length]))
    elif kind == "rename text":
        data = bytearray(TEXTS[rng.integers(len(TEXTS))].encode())
        data += rng.bytes(rng.integers(200)) if rng.random() < 0.5 else b""
    else:
        values = (
            b"\xff\xff\xff\xff",
            b"\x7f\xff\xff\xff",
            b"\0\1\x86\xa0",
            b"\xa0\x86\1\0",
            bytes(4),
        )
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(min(len(data), 1500))
            data[place : place + 4] = values[rng.integers(len(values))]
    return bytes(data)


def outcome(path: Path) -> str:
    """Either "decoded", or "refused" with the one error type that names the file, or what else."""
    try:
        with video.Video(path) as opened:
            indices = transforms.test_indices(opened.num_frames, 2, 8, 2).ravel()
            frames = opened.frames(indices)
            assert frames.shape[1:] == (opened.info.height, opened.info.width, 3)
            assert len(frames) == len(indices)
        for _ in video.stream(path):
            pass
    except video.VideoError as error:
        return (
            "refused"
            if str(error).startswith(f"{path}: ") and "\n" not in str(error)
            else repr(error)
        )
    return "decoded"


def report(case: int | str, path: Path) -> None:
    print(case, end=" ", flush=True)
    faulthandler.dump_traceback_later(10, exit=True)
    print(outcome(path), flush=True)
    faulthandler.cancel_dump_traceback_later()


def peak_mib() -> int:
    """The most memory this process has held; Linux's rusage would count its parent's, too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def main() -> None:
    folder, (seed, first, last) = Path(sys.argv[1]), map(int, sys.argv[2:])
    originals = [file.read_bytes() for file in sorted(folder.glob("original-*"))]
    broken = folder / f"broken-{first}.mp4"
    for path in folder.glob("given-*"):
        report(path.name, path)
    for case in range(first, last):
        broken.write_bytes(corrupted(originals, seed, case))
        report(case, broken)
    print("MiB", peak_mib())


if __name__ == "__main__":
    main()
