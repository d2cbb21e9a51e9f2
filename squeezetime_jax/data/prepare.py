"""Before training: find unreadable videos (`check`), store small copies as shards (`prepare`).

Shards are ArrayRecord files in TFDS's format; `tfds.builder_from_directory(out)` opens them without
TensorFlow. They are written here and not by a TFDS builder because a builder that is killed starts
again. Here a shard holds the next videos of the list; it is written under a hidden name and renamed
when complete, and a second run of the same command writes only the missing ones. TFDS's description
of the data set (`dataset_info.json`, `features.json`) comes last, so that what TFDS opens is whole.

Beside the shards, `.prepare/` holds the job, so that two jobs do not mix, and for each shard its
counts and bad videos.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from squeezetime_jax.data import records, workers
from squeezetime_jax.data.packets import MAX_PIXELS
from squeezetime_jax.data.sources import FileSource, Source
from squeezetime_jax.data.video import FrameSequence, Video
from squeezetime_jax.errors import UserError
from squeezetime_jax.files import whole, write_whole

# A clip has 16 frames: it repeats frames of a shorter video.
MIN_FRAMES = 16
# A network input of 224 pixels enlarges such frames more than threefold.
MIN_SIDE = 64
# A decoder gets so many seconds, and more for each megabyte of the file, before it counts as hung.
_SECONDS, _SECONDS_PER_MB = 300.0, 30.0

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"

Labelled = tuple[str, int]
Progress = Callable[[int], None]


def check(
    source: Source, processes: int | None = None, progress: Progress = lambda done: None
) -> list[tuple[str, str]]:
    """Decode every video and say what is wrong with which.

    Args:
      source: the videos.
      processes: how many videos at once; by default one per available processor.
      progress: called with the number of videos done since the last call.

    Returns:
      (name, reason) of each video with a problem, in the order of the source.
    """
    found = []
    outcomes = workers.each(
        functools.partial(_problems, source),
        range(len(source)),
        processes,
        name=lambda number: source[number].name,
        seconds=lambda number: _seconds(source[number].video),
    )
    for number, problems in outcomes:
        if problems:
            name = source[number].name
            text = str(problems) if isinstance(problems, UserError) else "; ".join(problems)
            found.append((name, text.removeprefix(f"{name}: ")))
        progress(1)
    return found


def _problems(source: Source, number: int) -> list[str]:
    with source[number].open() as video:
        return list(_describe(video))


def _describe(video: Video | FrameSequence) -> Iterator[str]:
    if isinstance(video, Video):
        if broken := video.count_broken():
            yield f"{broken} of {video.num_frames} frames cannot be decoded without errors"
        if video.missing:
            yield f"truncated: {video.missing}"
        height, width = video.info.height, video.info.width
    else:
        for number in range(video.num_frames):  # one at a time, for the memory
            height, width = video.frames([number]).shape[1:3]
    if video.num_frames < MIN_FRAMES:
        frames = "1 frame" if video.num_frames == 1 else f"{video.num_frames} frames"
        yield f"only {frames}; a clip has {MIN_FRAMES}"
    if min(width, height) < MIN_SIDE:
        yield f"frames of {width} x {height} pixels; a side is below {MIN_SIDE}"


@dataclasses.dataclass(frozen=True)
class Job:
    """What is prepared, and how; a folder holds one form and size.

    Attributes:
      videos: (path relative to the root, label) of each video.
      root: the folder that the paths are relative to.
      out: the folder of the shards; made if absent.
      split: the name of the split, such as "train".
      form: one of `records.FORMS`.
      short_side: of the stored frames, in pixels.
      class_names: in the order of the labels; empty where unknown.
      shard_size: videos per shard, and so the most that a killed run does again.
      max_pixels: the largest accepted frame of a video, width times height.
      source: what holds the videos if they are not files below the root.
    """

    videos: Sequence[Labelled]
    root: Path
    out: Path
    split: str
    form: str = "video"
    short_side: int = 256
    class_names: Sequence[str] = ()
    shard_size: int = 64
    max_pixels: int = MAX_PIXELS
    source: Source | None = None

    @classmethod
    def of(cls, source: Source, **fields: Any) -> "Job":
        """The job of all videos of a source."""
        fields["class_names"] = source.class_names
        if isinstance(source, FileSource):
            return cls(source.videos, source.root, **fields)
        found = map(source.__getitem__, range(len(source)))
        return cls([(each.name, each.label) for each in found], Path(), source=source, **fields)

    def encode(self, number: int) -> records.StoredVideo:
        """What is stored of a video, given its place in the list."""
        name, _ = self.videos[number]
        video = self.source[number].video if self.source else self.root / name
        size = self.short_side
        return records.encode(video, self.form, size, name, max_pixels=self.max_pixels)

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

    def part(self, number: int) -> Sequence[int]:
        """The places in the list of the videos of a shard."""
        return range(len(self.videos))[number * self.shard_size : (number + 1) * self.shard_size]

    @property
    def classes(self) -> Sequence[str] | int:
        """The class names, or where they are unknown how many classes the labels show."""
        return self.class_names or max(label for _, label in self.videos) + 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a job.

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
    progress: Progress = lambda done: None,
    encode: Callable[[Labelled], records.StoredVideo] | None = None,
) -> Report:
    """Write the missing shards, then the description of the data set.

    Args:
      job: what to do.
      processes: how many videos at once; by default one per available processor.
      progress: called with the number of videos done since the last call.
      encode: what to store of a listed video, in the job's form; by default all of it. Picklable.

    Raises:
      UserError: the folder has another job's shards, or another process prepares it; the list is
        empty, or no video is readable.
    """
    if not job.videos:
        raise UserError("no videos to prepare; expected a line `path label` for each")
    with _alone(job):
        return _prepare(job, processes, progress, encode)


def classes_of(out: Path) -> list[str]:
    """The class names of the splits that a folder of shards has; empty without."""
    notes = [json.loads(note.read_text()) for note in _jobs(out)]
    return next((note["class_names"] for note in notes if note.get("class_names")), [])


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Hold the folder, which one process prepares at a time.

    Raises:
      UserError: another process holds it.
    """
    path = job.out / ".prepare" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{job.out}: cannot be written ({reason}); choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system frees it with the process
        except BlockingIOError:
            raise UserError(
                f"{job.out}: another process prepares videos into this folder; wait for it, or give"
                " another --out"
            ) from None
        yield


def _prepare(
    job: Job,
    processes: int | None,
    progress: Progress,
    encode: Callable[[Labelled], records.StoredVideo] | None,
) -> Report:
    _other_splits(job)  # raises now what it would raise after hours
    _claim(job)
    missing = [number for number in range(job.num_shards) if not job.shard(number).exists()]
    progress(len(job.videos) - sum(len(job.part(number)) for number in missing))
    outcomes = workers.each(
        functools.partial(_encode_listed, job, encode) if encode else job.encode,
        (place for number in missing for place in job.part(number)),
        processes,
        name=lambda place: job.videos[place][0],
        seconds=lambda place: _seconds(job.root / job.videos[place][0]),
    )
    encoded = ((job.videos[place], stored) for place, stored in outcomes)
    for number in missing:
        _write_shard(job, number, encoded, progress)
    report = _report(job)
    if not report.num_videos:
        for number in range(job.num_shards):
            job.shard(number).unlink()  # for a second try to start afresh
        name, reason = report.bad[0]
        raise UserError(f"none of the {len(job.videos)} videos can be read; {name}: {reason}")
    _describe_data_set(job)
    return report


def _encode_listed(
    job: Job, encode: Callable[[Labelled], records.StoredVideo], place: int
) -> records.StoredVideo:
    return encode(job.videos[place])


def _seconds(video: Path | records.StoredVideo) -> float:
    """The time limit of a video: a decoder that hangs is ended."""
    try:
        size = video.stat().st_size if isinstance(video, Path) else records.num_bytes(video)
    except OSError:
        size = 0
    return _SECONDS + _SECONDS_PER_MB * size / 1e6


def _write_shard(
    job: Job,
    number: int,
    encoded: Iterator[tuple[Labelled, records.StoredVideo | UserError]],
    progress: Progress,
) -> None:
    """Write a shard and its counts, all or nothing."""
    from array_record.python.array_record_module import ArrayRecordWriter

    features = records.features(job.form, job.classes)
    count, size, bad = 0, 0, []
    with whole(job.shard(number)) as part:
        writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
        for (name, label), stored in itertools.islice(encoded, len(job.part(number))):
            if isinstance(stored, UserError):
                bad.append((name, str(stored).removeprefix(f"{name}: ")))
            else:
                example = {"video": stored, "label": label, "name": name}
                writer.write(features.serialize_example(example))
                count, size = count + 1, size + records.num_bytes(stored)
            progress(1)
        writer.close()
        _write_json(_notes(job, number), {"num_videos": count, "num_bytes": size, "bad": bad})


def _claim(job: Job) -> None:
    """Note the job beside the shards, or compare it with the note that is there."""
    listed = "\n".join(f"{name} {label}" for name, label in job.videos)
    note = {
        "form": job.form,
        "short_side": job.short_side,
        "shard_size": job.shard_size,
        "class_names": list(job.class_names),
        "list": hashlib.sha256(listed.encode()).hexdigest(),
    }
    file = job.out / ".prepare" / f"{job.split}.json"
    shards = job.out.glob(f"{records.DATASET_NAME}-{job.split}.array_record-*")
    if not (file.exists() and any(shards)):
        _write_json(file, note)
        return
    found = json.loads(file.read_text())
    for field, value in note.items():
        if found.get(field) != value:
            changes = {
                "list": "the list of videos has changed",
                "class_names": "the class names have changed",
            }
            change = changes.get(field) or f"{field} was {found.get(field)!r}, is now {value!r}"
            raise UserError(
                f"{job.out}: split {job.split!r} was prepared with other settings: {change}; choose"
                f" another --out or --split, or delete {records.DATASET_NAME}-{job.split}.* there"
            )


def _jobs(out: Path) -> list[Path]:
    """The notes of the splits that are, or were begun to be, prepared into a folder."""
    return sorted(
        note
        for note in (out / ".prepare").glob("*.json")
        if any(out.glob(f"{records.DATASET_NAME}-{note.stem}.array_record-*"))
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


def _describe_data_set(job: Job) -> None:
    """Write TFDS's description of all splits in the folder, `dataset_info.json` last."""
    import tensorflow_datasets as tfds  # slow to import

    others, classes = _other_splits(job)
    template = tfds.core.ShardedFileTemplate(
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
    identity = tfds.core.DatasetIdentity(
        name=records.DATASET_NAME,
        version=tfds.core.Version(records.VERSION),
        data_dir=str(job.out),
        module_name="",
    )
    info = tfds.core.DatasetInfo(builder=identity, features=records.features(job.form, classes))
    info.set_file_format("array_record")
    info.set_splits(tfds.core.SplitDict([*others, split]))
    with tempfile.TemporaryDirectory(dir=job.out, prefix=".") as hidden:
        info.write_to_directory(hidden)
        for file in sorted(Path(hidden).iterdir(), key=lambda f: f.name == "dataset_info.json"):
            file.replace(job.out / file.name)
    for part in job.out.glob(f".{records.DATASET_NAME}-{job.split}.*.part*"):
        part.unlink(missing_ok=True)  # of runs that were killed


def _other_splits(job: Job) -> tuple[list[Any], Sequence[str] | int]:
    """Splits that the folder holds besides the job's, and the classes of all.

    Raises:
      UserError: they do not fit the job.
    """
    for note in _jobs(job.out):
        side = json.loads(note.read_text()).get("short_side", job.short_side)
        if note.stem != job.split and side != job.short_side:
            raise UserError(
                f"{job.out}: its split {note.stem!r} has frames of short side {side}, this one"
                f" {job.short_side}; choose another --out or the same --short-side"
            )
    if not (job.out / "dataset_info.json").exists():
        return [], job.classes
    import tensorflow_datasets as tfds

    info = tfds.builder_from_directory(str(job.out)).info
    others = [split for name, split in info.splits.items() if name != job.split]
    if not others:
        return [], job.classes
    form = "video" if isinstance(info.features["video"], tfds.features.Text) else "jpeg"
    if form != job.form:
        raise UserError(
            f"{job.out}: holds splits of form {form!r}, this one is {job.form!r}; choose another"
            " --out or the same --form"
        )
    names, classes = records.class_names(info.features["label"]), job.classes
    if names and job.class_names and names != tuple(job.class_names):
        raise UserError(
            f"{job.out}: its other splits have other class names, or in another order; prepare all"
            " splits with the same --labels, or choose another --out"
        )
    if names and isinstance(classes, int) and classes > len(names):
        raise UserError(
            f"{job.out}: its other splits have {len(names)} classes, but this one has label"
            f" {classes - 1}; give the list of the same data set, or another --out"
        )
    if isinstance(classes, int):
        classes = names or max(classes, info.features["label"].num_classes)
    return others, classes


def _write_json(file: Path, content: Any) -> None:
    write_whole(file, json.dumps(content))
