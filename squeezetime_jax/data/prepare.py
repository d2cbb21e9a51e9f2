"""Videos -> ArrayRecord shards that TFDS reads: shrunk once, so that every epoch reads less.

The shards are written here and not by a TFDS builder because TFDS writes a data set in one go:
after a kill it starts again. Here a shard is a run of the list's videos, written under a hidden
name and renamed when complete; a second run of the same command finds it and goes on after it.
TFDS's description of the data set (`dataset_info.json`, `features.json`) comes last, so that what
TFDS opens is complete. `tfds.builder_from_directory(out).as_data_source(split)` reads it.

Beside the shards lies `.prepare/`: the job (so that two jobs do not mix) and each shard's counts
and bad videos.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.naming import ShardedFileTemplate
from tensorflow_datasets.core.splits import SplitDict

from squeezetime_jax.data import records, workers
from squeezetime_jax.errors import UserError

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

Labelled = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is prepared, and how; a folder holds one form and size.

    Attributes:
      videos: (path relative to the root, label) of each video.
      root: the folder that the paths are relative to.
      out: the folder of the shards; made where absent.
      split: the name of the split, such as "train".
      form: one of `records.FORMS`.
      short_side: of the stored frames.
      class_names: in the order of the labels; empty where unknown.
      shard_size: videos per shard: what is lost at most by a kill.
    """

    videos: Sequence[Labelled]
    root: Path
    out: Path
    split: str
    form: str = "video"
    short_side: int = 256
    class_names: Sequence[str] = ()
    shard_size: int = 64

    @property
    def num_shards(self) -> int:
        """Shards of the split."""
        return max(-(-len(self.videos) // self.shard_size), 1)

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.out / (
            f"{records.DATASET_NAME}-{self.split}.array_record"
            f"-{number:05d}-of-{self.num_shards:05d}"
        )

    def part(self, number: int) -> Sequence[Labelled]:
        """The videos of a shard."""
        return self.videos[number * self.shard_size : (number + 1) * self.shard_size]


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of a job.

    Attributes:
      num_videos: videos in the shards.
      num_bytes: size of the stored videos.
      bad: (path, reason) of each video that is not in the shards.
    """

    num_videos: int
    num_bytes: int
    bad: Sequence[tuple[str, str]]


def prepare(
    job: Job,
    processes: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
    encode: Callable[[Labelled], records.StoredVideo] | None = None,
) -> Report:
    """Write the shards that are not there yet, then the description of the data set.

    Args:
      job: what to do.
      processes: how many videos at once; by default one per core.
      progress: called with the number of videos done since the last call.
      encode: what is stored of a listed video, in the job's form; by default all of it. Picklable.

    Raises:
      UserError: the folder holds another job's shards, or the list is empty, or no video is good.
    """
    if not job.videos:
        raise UserError("the list names no videos; wanted one line `path label` per video")
    _claim(job)
    missing = [number for number in range(job.num_shards) if not job.shard(number).exists()]
    progress(len(job.videos) - sum(len(job.part(number)) for number in missing))
    encode = encode or functools.partial(records.encode_listed, job.root, job.form, job.short_side)
    encoded = workers.each(encode, (v for number in missing for v in job.part(number)), processes)
    for number in missing:
        _write_shard(job, number, encoded, progress)
    report = _report(job)
    if not report.num_videos:
        name, reason = report.bad[0]
        raise UserError(f"none of the {len(job.videos)} videos can be read; {name}: {reason}")
    _describe(job)
    return report


def _write_shard(
    job: Job,
    number: int,
    encoded: Iterator[tuple[Labelled, records.StoredVideo | UserError]],
    progress: Callable[[int], None],
) -> None:
    """Write a shard under a hidden name, then its counts, then rename: all or nothing."""
    features = records.features(job.form, job.class_names or _num_classes(job))
    serializer = ExampleSerializer(features.get_serialized_info())
    hidden = job.out / f".{job.shard(number).name}.part"
    writer = ArrayRecordWriter(str(hidden), "group_size:1,uncompressed")
    count, size, bad = 0, 0, []
    for (name, label), stored in itertools.islice(encoded, len(job.part(number))):
        if isinstance(stored, UserError):
            bad.append((name, str(stored).removeprefix(f"{name}: ")))
        else:
            example = {"video": stored, "label": label, "name": name}
            writer.write(serializer.serialize_example(features.encode_example(example)))
            count, size = count + 1, size + records.num_bytes(stored)
        progress(1)
    writer.close()
    _write_json(_notes(job, number), {"num_videos": count, "num_bytes": size, "bad": bad})
    hidden.rename(job.shard(number))


def _claim(job: Job) -> None:
    """Note the job beside the shards, or compare with the note that is there."""
    listed = "\n".join(f"{name} {label}" for name, label in job.videos)
    note = {
        "form": job.form,
        "short_side": job.short_side,
        "shard_size": job.shard_size,
        "class_names": list(job.class_names),
        "list": hashlib.sha256(listed.encode()).hexdigest(),
    }
    file = job.out / ".prepare" / f"{job.split}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_json(file, note)
        return
    found = json.loads(file.read_text())
    for field, value in note.items():
        if found.get(field) != value:
            raise UserError(
                f"{job.out}: holds split {job.split!r} of another job: {field} was"
                f" {found.get(field)!r}, is now {value!r}; choose another --out, or delete it"
            )


def _notes(job: Job, number: int) -> Path:
    return job.out / ".prepare" / f"{job.split}-{number:05d}.json"


def _report(job: Job) -> Report:
    notes = [json.loads(_notes(job, n).read_text()) for n in range(job.num_shards)]
    return Report(
        num_videos=sum(note["num_videos"] for note in notes),
        num_bytes=sum(note["num_bytes"] for note in notes),
        bad=[(name, reason) for note in notes for name, reason in note["bad"]],
    )


def _describe(job: Job) -> None:
    """Write TFDS's description of all splits in the folder, `dataset_info.json` last."""
    others, num_classes = _other_splits(job)
    classes = job.class_names or max(num_classes, _num_classes(job))
    template = ShardedFileTemplate(
        data_dir=job.out,
        dataset_name=records.DATASET_NAME,
        split=job.split,
        filetype_suffix="array_record",
        template=_TEMPLATE,
    )
    notes = [json.loads(_notes(job, number).read_text()) for number in range(job.num_shards)]
    split = tfds.core.SplitInfo(
        name=job.split,
        shard_lengths=[note["num_videos"] for note in notes],
        num_bytes=sum(note["num_bytes"] for note in notes),
        filename_template=template,
    )
    identity = DatasetIdentity(
        name=records.DATASET_NAME,
        version=tfds.core.Version(records.VERSION),
        data_dir=str(job.out),
        module_name="",
    )
    info = tfds.core.DatasetInfo(builder=identity, features=records.features(job.form, classes))
    info.set_file_format("array_record")
    info.set_splits(SplitDict([*others, split]))
    with tempfile.TemporaryDirectory(dir=job.out, prefix=".") as hidden:
        info.write_to_directory(hidden)
        for file in sorted(Path(hidden).iterdir(), key=lambda f: f.name == "dataset_info.json"):
            file.replace(job.out / file.name)


def _other_splits(job: Job) -> tuple[list[Any], int]:
    """Splits prepared before, and their number of classes."""
    if not (job.out / "dataset_info.json").exists():
        return [], 0
    info = tfds.builder_from_directory(str(job.out)).info
    found = "video" if isinstance(info.features["video"], tfds.features.Text) else "jpeg"
    if found != job.form:
        raise UserError(
            f"{job.out}: its splits are stored as {found!r}, this one as {job.form!r}; choose"
            " another --out or the same --form"
        )
    others = [split for name, split in info.splits.items() if name != job.split]
    return others, info.features["label"].num_classes


def _num_classes(job: Job) -> int:
    return max(label for _, label in job.videos) + 1


def _write_json(file: Path, content: Any) -> None:
    hidden = file.with_name(f".{file.name}.part")
    hidden.write_text(json.dumps(content))
    hidden.rename(file)
