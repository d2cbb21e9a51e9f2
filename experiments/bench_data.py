"""Clips per second and core of the data pipeline's host side, beside mmaction2's.

Measures, in CPU milliseconds of one core and by turns, so that a busy machine troubles both alike:

  train    one K400 training clip from the raw file: 16 frames, short side 256, multi-scale crop
  shards   the same from a prepared record, in both storage forms
  test     the 30 views of a test video

    python experiments/bench_data.py VIDEO... [--rounds 30] [--reference-python PYTHON]

`--reference-python` names the Python of an environment with mmaction2 (`pip install mmaction2
mmcv-lite decord torch`); this file runs itself there and times mmaction2's K400 pipelines as
released. Its training pipeline also flips, jitters and erases on the host, which here is the
device's work; `train (no colour)` leaves that out.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

NUM_FRAMES, FRAME_INTERVAL = 16, 4

# Works on a path with a seed, of which only the training clips make use.
Pipeline = Callable[[str, int], object]


def mmaction2_pipelines() -> dict[str, Pipeline]:
    import mmcv

    mmcv.__version__ = "2.1.0"  # mmaction2 1.2 refuses mmcv-lite 2.2, which works
    import cv2
    import mmaction.datasets.transforms  # noqa: F401
    import numpy as np
    import torch
    from mmaction.registry import TRANSFORMS
    from mmengine.dataset import Compose

    cv2.setNumThreads(1)
    torch.set_num_threads(1)

    def pipeline(*steps: dict) -> Pipeline:
        steps = (*steps, {"type": "FormatShape", "input_format": "NCTHW"},
                 {"type": "PackActionInputs"})  # fmt: skip
        compose = Compose([TRANSFORMS.build(step) for step in steps])

        def run(path: str, seed: int) -> object:
            np.random.seed(seed)  # noqa: NPY002 - it is what mmaction2 draws from
            return compose({"filename": path, "label": 0, "start_index": 0, "modality": "RGB"})

        return run

    def sample(**options: object) -> tuple[dict, ...]:
        clip = {"type": "SampleFrames", "clip_len": NUM_FRAMES, "frame_interval": FRAME_INTERVAL}
        return {"type": "DecordInit"}, clip | options, {"type": "DecordDecode"}

    crop = (
        *sample(num_clips=1),
        {"type": "Resize", "scale": (-1, 256)},
        {"type": "MultiScaleCrop", "input_size": 224, "scales": (1, 0.875, 0.75, 0.66, 0.5),
         "random_crop": True, "max_wh_scale_gap": 1, "num_fixed_crops": 13},
        {"type": "Resize", "scale": (224, 224), "keep_ratio": False},
    )  # fmt: skip
    colour = (
        {"type": "Flip", "flip_ratio": 0.5},
        {"type": "ColorJitter", "hue": 0},  # its hue does not work with NumPy 2
        {"type": "RandomErasing", "erase_prob": 0.25, "mode": "rand"},
    )
    views = (
        *sample(num_clips=10, test_mode=True),
        {"type": "Resize", "scale": (-1, 224)},
        {"type": "ThreeCrop", "crop_size": 224},
    )
    return {"train": pipeline(*crop, *colour), "train (no colour)": pipeline(*crop),
            "test": pipeline(*views)}  # fmt: skip


class Draws:
    """Random numbers of which the first is mmaction2's under the same seed: the clip's start."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._start = lambda bound: int(np.random.RandomState(seed).randint(bound, size=1)[0])
        self._rest = np.random.default_rng(seed)

    def integers(self, bound: int) -> int:
        """Uniform in `[0, bound)`."""
        draw, self._start = self._start or self._rest.integers, None
        return int(draw(bound))


def our_pipelines(paths: list[str]) -> dict[str, Pipeline]:
    import cv2

    from squeezetime_jax.data import records, transforms, video

    cv2.setNumThreads(1)

    def train(source: transforms.FrameSource, seed: int) -> object:
        rng = Draws(seed)
        indices = transforms.training_indices(
            source.num_frames, NUM_FRAMES, FRAME_INTERVAL, rng=rng
        )
        return transforms.multi_scale_crop(source.frames(indices, short_side=256), rng)

    def from_file(path: str, seed: int) -> object:
        with video.Video(path) as source:
            return train(source, seed)

    def from_record(form: str) -> Pipeline:
        stored = {path: records.encode(path, form) for path in paths}
        size = sum(map(records.num_bytes, stored.values())) / len(paths)
        print(f"  {form}: {size / 1e3:.0f} kB a video")

        def read(path: str, seed: int) -> object:
            with records.open_record(stored[path], path) as source:
                return train(source, seed)

        return read

    def test(path: str, _: int) -> object:
        with video.Video(path) as source:
            return transforms.views(source, transforms.KINETICS_TEST)

    shards = {f"shards ({form})": from_record(form) for form in records.FORMS}
    return {"train": from_file, **shards, "test": test}


def cpu_ms(run: Pipeline, path: str, seed: int) -> float:
    start = time.process_time()
    run(path, seed)
    return (time.process_time() - start) * 1e3


class Reference:
    """mmaction2's pipelines in a process of their own."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.names = self._ask("\t\t0").split("\t")

    def cpu_ms(self, name: str, path: str, seed: int) -> float:
        """Time of one run there."""
        return float(self._ask(f"{name}\t{path}\t{seed}"))

    def _ask(self, line: str) -> str:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while not (answer := self._process.stdout.readline()).startswith("> "):
            if not answer:
                sys.exit("the reference process ended; its environment needs mmaction2")
        return answer[2:].strip()


def serve() -> None:
    pipelines = mmaction2_pipelines()
    for line in sys.stdin:
        name, path, seed = line.rstrip("\n").split("\t")
        answer = cpu_ms(pipelines[name], path, int(seed)) if name else "\t".join(pipelines)
        print(">", answer, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--reference-python")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    ours = our_pipelines(args.videos)
    reference = Reference(args.reference_python) if args.reference_python else None
    for path in args.videos:
        times: dict[str, list[float]] = {}
        for seed in range(args.rounds):
            for name, run in ours.items():
                times.setdefault(f"ours, {name}", []).append(cpu_ms(run, path, seed))
            for name in reference.names if reference else ():
                times.setdefault(f"mmaction2, {name}", []).append(
                    reference.cpu_ms(name, path, seed)
                )
        report(path, {name: statistics.median(ms) for name, ms in times.items()})


def report(path: str, medians: dict[str, float]) -> None:
    print(path)
    for name, ms in medians.items():
        kind = "test" if name.endswith("test") else "train"
        base = medians.get(f"mmaction2, {kind}")
        ratio = f"{base / ms:7.2f} x mmaction2's speed" if base else ""
        print(f"  {name:32} {ms:8.1f} ms {1e3 / ms:8.1f} /s {ratio}")


if __name__ == "__main__":
    main()
