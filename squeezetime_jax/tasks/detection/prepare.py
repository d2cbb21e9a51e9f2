"""The frames around annotated seconds, packed into shards.

    python -m squeezetime_jax.tasks.detection.prepare --config ava21 --split train --out shards

`--config.data.frames=shards` then reads a clip's frames at once.
"""

import argparse
import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np

from squeezetime_jax.data import prepare as videos
from squeezetime_jax.data import records, transforms
from squeezetime_jax.data.workers import progress_bar
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.config import Data, Experiment
from squeezetime_jax.tasks.detection.dataset import open_split
from squeezetime_jax.tasks.detection.moments import (
    INDEX,
    Frames,
    Sampling,
    read_index,
    second_name,
)
from squeezetime_jax.training import config


def prepare(
    data: Data,
    split: str,
    out: Path,
    *,
    num_classes: int,
    num_frames: int,
    short_side: int = 360,
    processes: int | None = None,
) -> videos.Report:
    """Pack all frames that clips of a split may take; what is there already is kept.

    Args:
      data: where everything is, and how clips are taken.
      split: "train" or "test".
      out: folder of the shards; the same for both splits.
      num_classes: action ids are below.
      num_frames: of a clip.
      short_side: of the stored frames, which are never enlarged.
      processes: seconds at once; by default one per core.

    Raises:
      UserError: as `open_split` and `squeezetime_jax.data.prepare.prepare`.
    """
    # Which boxes a detector found is nothing to the frames.
    data = dataclasses.replace(data, train_proposals="", test_proposals="")
    opened = open_split(data, split, num_classes, num_frames)
    sampling = data.sampling(num_frames)
    seconds = [opened.key_frames.frame(index) for index in range(len(opened.key_frames))]
    names = [second_name(*second) for second in dict.fromkeys(seconds)]
    job = videos.Job(
        videos=[(name, 0) for name in names],
        root=Path(data.frames),
        out=out,
        split=split,
        form="jpeg",
        short_side=short_side,
    )
    index = {"sampling": dataclasses.asdict(sampling), "splits": {}}
    if (out / INDEX).exists():
        index = read_index(out)
        if index["sampling"] != dataclasses.asdict(sampling):
            raise UserError(
                f"{out}: prepared for clips of {index['sampling']}; choose another --out"
            )
    encode = functools.partial(_encode, opened.frames, sampling, short_side)
    with progress_bar("packing", len(names)) as progress:
        report = videos.prepare(job, processes, progress, encode)
    bad = {name for name, _ in report.bad}
    index["splits"][split] = [name for name in names if name not in bad]
    part = out / f".{INDEX}.part"
    part.write_text(json.dumps(index))
    part.replace(out / INDEX)
    return report


def _encode(
    frames: Frames, sampling: Sampling, short_side: int, listed: tuple[str, int]
) -> list[bytes]:
    video_id, second = listed[0].rsplit(",", 1)
    images = frames.read(video_id, sampling.window(int(second)))
    side = min(short_side, *images.shape[1:3])
    return [records.encode_jpeg(_shrink(image, side)) for image in images]


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    return image if side == min(image.shape[:2]) else transforms.resize_short_side(image, side)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m squeezetime_jax.tasks.detection.prepare",
        description="Pack the frames around annotated seconds into shards; resumes.",
    )
    parser.add_argument("--config", required=True, help="its data; fields: --config.NAME=VALUE")
    parser.add_argument("--split", required=True, choices=("train", "test"))
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--short-side", type=int, default=360, metavar="PIXELS", help="at most")
    parser.add_argument("--processes", type=int, metavar="N", help="default: one per core")
    args, fields = parser.parse_known_args(argv)
    try:
        experiment = config.parse_as(Experiment, config.read([f"--config={args.config}", *fields]))
        report = prepare(
            experiment.data,
            args.split,
            args.out,
            num_classes=experiment.model.num_classes,
            num_frames=experiment.model.num_frames,
            short_side=args.short_side,
            processes=args.processes,
        )
    except UserError as error:
        print(f"detection.prepare: {error}", file=sys.stderr)
        return 1
    for name, reason in report.bad:
        print(f"{name}: {reason}")
    size = f"{report.num_bytes / 1e6:.1f} MB"
    print(f"{report.num_videos} seconds, {size} in {args.out}; {len(report.bad)} bad")
    return 1 if report.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
