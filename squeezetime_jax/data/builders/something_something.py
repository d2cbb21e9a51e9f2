"""Something-Something V2."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from squeezetime_jax.data.builders.video_builder import Labelled, VideoBuilder, storage_configs
from squeezetime_jax.errors import UserError


class SomethingSomethingV2(VideoBuilder):
    """Something-Something V2: 193,690 labelled clips, 174 ways to handle things."""

    NUM_CLASSES = 174
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put into the manual folder:
    - `labels/train.json`, `labels/validation.json`: lists of {"id", "template", ...};
    - `labels/labels.json`: template -> number;
    - `20bn-something-something-v2/<id>.webm`: the videos.
    """
    BUILDER_CONFIGS = storage_configs()
    CITATION = "Goyal et al., The Something Something Video Database, arXiv:1706.04261"

    def _listed(self, folder: Path) -> Mapping[str, Iterable[Labelled]]:
        return {
            split: _read_list(folder / "labels" / f"{split}.json")
            for split in ("train", "validation")
        }

    def _class_names(self, folder: Path, splits: Mapping[str, Iterable[Labelled]]) -> list[str]:
        file = folder / "labels" / "labels.json"
        numbers = {name: int(number) for name, number in _read_json(file).items()}
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise UserError(f"{file}: numbers must be 0 to {len(numbers) - 1}; correct the file")
        unknown = {name for listed in splits.values() for _, name in listed} - numbers.keys()
        if unknown:
            raise UserError(f"{file}: template {min(unknown)!r} of the lists not found")
        return sorted(numbers, key=numbers.__getitem__)


def _read_list(file: Path) -> list[Labelled]:
    try:
        return [
            (
                f"20bn-something-something-v2/{entry['id']}.webm",
                entry["template"].replace("[", "").replace("]", ""),
            )
            for entry in _read_json(file)
        ]
    except (KeyError, TypeError) as error:
        raise UserError(f'{file}: expected a list of {{"id", "template"}}, got {error}') from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); check the file") from error
