"""Training clips and test views on one core of the host, beside mmaction2's K400 pipelines.

This file also runs by itself, in an environment with mmaction2, and times its pipelines there.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

NUM_FRAMES, FRAME_INTERVAL = 16, 4

# Works on a path with a seed, which only training clips use.
Pipeline = Callable[[str, int], object]


def cpu_seconds(run: Pipeline, path: str, seed: int) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    run(path, seed)
    return time.process_time() - start


def data(args: argparse.Namespace) -> None:
    """One table for each video."""
    from benchmarks.measuring import interleaved, show

    ours = our_pipelines(args.videos)
    theirs = Mmaction2(args.reference_python) if args.reference_python else None
    for path in args.videos:
        print(path)
        for kind in ("train", "test"):
            runs = {
                name: lambda seed, run=run, path=path: cpu_seconds(run, path, seed)
                for name, run in ours.items()
                if name.startswith(kind)
            }
            for name in theirs.names if theirs else ():
                if name.startswith(kind):
                    runs[f"mmaction2, {name}"] = lambda seed, name=name, path=path: (
                        theirs.cpu_seconds(name, path, seed)
                    )
            found = interleaved(runs, args.rounds)
            show(found, {"CPU ms": 1e3}, f"mmaction2, {kind}")


def our_pipelines(paths: list[str]) -> dict[str, Pipeline]:
    """A clip as the K400 recipe draws it, from the file and from records; a video's 30 views."""
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
        print(f"{form}: {size / 1e3:.0f} kB a video")

        def read(path: str, seed: int) -> object:
            with records.open_record(stored[path], path) as source:
                return train(source, seed)

        return read

    def test(path: str, _: int) -> object:
        with video.Video(path) as source:
            return transforms.views(source, transforms.KINETICS_TEST)

    shards = {f"train, shards ({form})": from_record(form) for form in records.FORMS}
    return {"train": from_file, **shards, "test": test}


class Draws:
    """Random numbers whose first is mmaction2's for the same seed: the start of the clip."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._start = lambda bound: int(np.random.RandomState(seed).randint(bound, size=1)[0])
        self._rest = np.random.default_rng(seed)

    def integers(self, bound: int) -> int:
        """Uniform in `[0, bound)`."""
        draw, self._start = self._start or self._rest.integers, None
        return int(draw(bound))


class Mmaction2:
    """mmaction2's pipelines, in a process of the Python that has it."""

    def __init__(self, python: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([python, __file__], stdin=pipe, stdout=pipe, text=True)
        self.names = self._answer("\t\t0").split("\t")

    def cpu_seconds(self, name: str, path: str, seed: int) -> float:
        """Time of one call there."""
        return float(self._answer(f"{name}\t{path}\t{seed}"))

    def _answer(self, line: str) -> str:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while not (answer := self._process.stdout.readline()).startswith("> "):
            if not answer:
                sys.exit("--reference-python: the process ended; its environment needs mmaction2")
        return answer[2:].strip()


def serve() -> None:
    """Answer lines `name, path, seed` with the time of a call, and an empty name with all names."""
    pipelines = mmaction2_pipelines()
    for line in sys.stdin:
        name, path, seed = line.rstrip("\n").split("\t")
        answer = cpu_seconds(pipelines[name], path, int(seed)) if name else "\t".join(pipelines)
        print(">", answer, flush=True)


def mmaction2_pipelines() -> dict[str, Pipeline]:
    """The released K400 pipelines, and the training one without what is done on devices here."""
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
            np.random.seed(seed)  # noqa: NPY002 - mmaction2 draws from it
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


if __name__ == "__main__":
    serve()
