from pathlib import Path

import pytest

from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation.labels import BUILT_IN, built_in, class_names


@pytest.mark.parametrize(("name", "size"), BUILT_IN.items())
def test_the_package_brings_the_names_of_well_known_data_sets(name: str, size: int) -> None:
    assert len(set(built_in(name))) == size


def test_names_are_in_the_order_of_the_labels() -> None:
    assert built_in("kinetics400")[5] == "archery"
    assert built_in("hmdb51")[:2] == ["brush_hair", "cartwheel"]


def test_a_label_map_comes_before_the_checkpoint_before_the_data_sets(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join("abcdefgh"))
    assert class_names(8, labels=str(path), checkpoint=checkpoint)[0] == list("abcdefgh")
    assert class_names(8, checkpoint=checkpoint) == (list(motion.CLASSES), "the checkpoint")
    assert class_names(400, checkpoint=checkpoint)[0] == built_in("kinetics400")
    assert class_names(7, checkpoint=checkpoint)[0] is None


def test_a_label_map_of_another_length_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="hmdb51: found 51 class names, but the network has 8"):
        class_names(8, labels="hmdb51", checkpoint=checkpoint)
