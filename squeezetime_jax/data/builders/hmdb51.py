"""HMDB51, with its three official splits."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from squeezetime_jax.data.builders.video_builder import Labelled, VideoBuilder, storage_configs
from squeezetime_jax.errors import UserError

# The flag of a video in a split file -> the TFDS split; 0 is in neither.
_FLAGS = {"1": "train", "2": "test"}


class Hmdb51(VideoBuilder):
    """HMDB51: 6,766 clips, 51 actions; a builder config for each of the three splits."""

    NUM_CLASSES = 51
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into the manual folder:
    - `videos/<class>/<name>.avi`: the unpacked class archives;
    - `splits/<class>_test_split1.txt` (2, 3): the split files, lines `<name>.avi 0|1|2`.
    """
    BUILDER_CONFIGS = storage_configs(splits=(1, 2, 3))
    CITATION = "Kuehne et al., HMDB: A Large Video Database for Human Motion Recognition, ICCV 2011"

    def _listed(self, folder: Path) -> Mapping[str, Iterable[Labelled]]:
        ending = f"_test_split{self.builder_config.split}.txt"
        videos: dict[str, list[Labelled]] = {"train": [], "test": []}
        for file in sorted((folder / "splits").glob(f"*{ending}")):
            name = file.name.removesuffix(ending)
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                video, _, flag = line.strip().rpartition(" ")
                if line.strip() and (not video or flag not in ("0", "1", "2")):
                    raise UserError(
                        f"{file}, line {number}: expected `name.avi 0|1|2`, got {line[:80]!r}"
                    )
                if flag in _FLAGS:
                    videos[_FLAGS[flag]].append((f"videos/{name}/{video.strip()}", name))
        return videos
