"""What the builders share: storage forms, records, and who does the work."""

import abc
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from squeezetime_jax.data import records, workers
from squeezetime_jax.data.video import probe
from squeezetime_jax.errors import UserError

_log = logging.getLogger(__name__)

# A video of a split: its path below the manual folder, and its class name.
Labelled = tuple[str, str]


@dataclasses.dataclass
class VideoConfig(tfds.core.BuilderConfig):
    """How videos are stored, and which split of the data set.

    Attributes:
      form: one of `records.FORMS`; None keeps the downloaded file's bytes.
      short_side: of re-encoded frames.
      split: number of the official split, where there are several.
    """

    form: str | None = None
    short_side: int = 256
    split: int = 1


def storage_configs(splits: Sequence[int] = (1,)) -> list[VideoConfig]:
    """Every storage form of every split; `original`, `video256` and `jpeg256`."""
    kinds = [
        ("original", "the downloaded file", None),
        ("video256", "short side 256, frequent keyframes", "video"),
        ("jpeg256", "short side 256, one JPEG per frame", "jpeg"),
    ]
    return [
        VideoConfig(
            name=name if len(splits) == 1 else f"split{split}_{name}",
            description=what,
            form=form,
            split=split,
        )
        for split in splits
        for name, what, form in kinds
    ]


class VideoBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of {"video", "label", "name"} records.

    Args:
      beam: prepare through Apache Beam, on the runner of the download config (`beam_runner`,
        `beam_options`), so on many machines; by default in processes of this one.
      **kwargs: those of every TFDS builder, such as `data_dir` and `config`.
    """

    VERSION = tfds.core.Version("1.0.0")
    NUM_CLASSES: int
    CITATION: str
    # TFDS downloads nothing here, and searching checksums beside the code needs another package.
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, beam: bool = False, **kwargs: Any) -> None:
        self._beam = beam
        super().__init__(**{"file_format": "array_record"} | kwargs)

    @abc.abstractmethod
    def _listed(self, folder: Path) -> Mapping[str, Iterable[Labelled]]:
        """The videos of each split, as the data set's own files list them."""

    def _info(self) -> tfds.core.DatasetInfo:
        # The class names come from the downloaded files, in `_split_generators`.
        features = dict(records.features(self.builder_config.form or "video", 1).items())
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features | {"label": tfds.features.ClassLabel()}),
            supervised_keys=("video", "label"),
            citation=self.CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        splits = {name: list(listed) for name, listed in self._listed(folder).items()}
        classes = self._class_names(folder, splits)
        if len(classes) != self.NUM_CLASSES:
            raise UserError(
                f"{folder}: expected lists of {self.NUM_CLASSES} classes, got {len(classes)};"
                " complete the annotation files, or the labels differ from the published ones"
            )
        if self.info.features["label"].num_classes is None:
            self.info.features["label"].names = classes
        numbers = {name: number for number, name in enumerate(classes)}
        return {
            split: self._generate_examples(
                folder, _present(folder, split, [(path, numbers[c]) for path, c in listed])
            )
            for split, listed in splits.items()
        }

    def _class_names(self, folder: Path, splits: Mapping[str, Iterable[Labelled]]) -> list[str]:
        """In the order of the labels: alphabetical, as in the published label maps."""
        return sorted({name for listed in splits.values() for _, name in listed})

    def _generate_examples(self, folder: Path, videos: Sequence[tuple[str, int]]) -> Any:
        config = self.builder_config
        store = functools.partial(_store, folder, config.form, config.short_side)
        if self._beam:
            import apache_beam

            return (
                apache_beam.Create(videos)
                | apache_beam.Reshuffle()
                | apache_beam.FlatMap(functools.partial(_examples, store))
            )
        if config.form is None:  # reading files is no work for processes
            return (example for video in videos for example in _examples(store, video))
        return _in_processes(store, videos)


def _present(folder: Path, split: str, videos: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The listed videos that are there; data sets lose videos over the years."""
    found = [video for video in videos if (folder / video[0]).is_file()]
    if not found:
        raise UserError(
            f"{folder}: none of the {len(videos)} videos listed for {split} found, such as"
            f" {videos[0][0] if videos else 'none'}; expected them below this folder"
        )
    _log.info("%s: found %d of the %d listed videos", split, len(found), len(videos))
    return found


def _store(
    folder: Path, form: str | None, short_side: int, video: tuple[str, int]
) -> records.StoredVideo:
    path = folder / video[0]
    if form is not None:
        return records.encode(path, form, short_side, video[0])
    probe(path, video[0])
    return path.read_bytes()


def _examples(store: Any, video: tuple[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The example of a video; none, and a warning, where it cannot be read."""
    try:
        stored = store(video)
    except UserError as error:
        _log.warning("left out: %s", error)
        return
    yield video[0], {"video": stored, "label": video[1], "name": video[0]}


def _in_processes(
    store: Any, videos: Sequence[tuple[str, int]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for video, stored in workers.each(store, videos, name=lambda video: video[0]):
        if isinstance(stored, UserError):
            _log.warning("left out: %s", stored)
            continue
        yield video[0], {"video": stored, "label": video[1], "name": video[0]}
