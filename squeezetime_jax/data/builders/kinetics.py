"""Kinetics-400 and Kinetics-600."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from squeezetime_jax.data.builders.video_builder import Labelled, VideoBuilder, storage_configs
from squeezetime_jax.data.sources import is_video_file
from squeezetime_jax.errors import UserError

# Name of the TFDS split -> of the data set's own csv file and folder.
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


class Kinetics400(VideoBuilder):
    """Kinetics-400: about 240,000 ten-second clips, 400 actions."""

    NUM_CLASSES = 400
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into the manual folder, for each split that you have (train, val, test):
    - its csv file, `train.csv`, with the columns label, youtube_id, time_start and time_end;
    - its videos, at any depth below the folder `train/`, named by the YouTube identifier alone or
      followed by the times: `<youtube_id>.mp4` or `<youtube_id>_000010_000020.mp4`.
    """
    BUILDER_CONFIGS = storage_configs()
    CITATION = "Kay et al., The Kinetics Human Action Video Dataset, arXiv:1705.06950"

    def _listed(self, folder: Path) -> Mapping[str, Iterable[Labelled]]:
        lists = {name: folder / f"{own}.csv" for name, own in _SPLITS.items()}
        present = {name: file for name, file in lists.items() if file.is_file()}
        if not present:
            raise UserError(f"{folder}: no train.csv, val.csv or test.csv found; add one")
        return {name: _read(folder, file) for name, file in present.items()}


def _read(folder: Path, file: Path) -> list[Labelled]:
    """The videos of a csv file; those without a file under the name they would have."""
    below = folder / file.stem
    there = {
        video.stem: str(video.relative_to(folder))
        for video in sorted(below.rglob("*"))
        if is_video_file(video)
    }
    videos = []
    with file.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        missing = {"label", "youtube_id", "time_start", "time_end"} - set(rows.fieldnames or ())
        if missing:
            raise UserError(
                f"{file}: column {', '.join(sorted(missing))} not found; it needs all four"
            )
        for row in rows:
            try:
                times = f"{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
            except ValueError as error:
                raise UserError(
                    f"{file}, line {rows.line_num}: expected seconds: {error}"
                ) from error
            stem = f"{row['youtube_id']}_{times}"
            path = there.get(stem) or there.get(row["youtube_id"]) or f"{file.stem}/{stem}.mp4"
            videos.append((path, row["label"]))
    return videos


class Kinetics600(Kinetics400):
    """Kinetics-600: about 390,000 ten-second clips, 600 actions; files as those of Kinetics-400."""

    NUM_CLASSES = 600
