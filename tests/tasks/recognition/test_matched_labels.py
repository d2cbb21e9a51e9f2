"""Labels are names: test videos against training videos and checkpoints, weights to start from."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.checkpoint.store import save_model
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.peers.entry import Input
from squeezetime_jax.tasks.recognition.task import Recognition, load_for, match_head
from squeezetime_jax.training import config

NAMES = list(motion.CLASSES)  # not in alphabetical order
INPUT = Input(short_side=40, crop_side=32, frame_interval=2, num_crops=1, train_side=36)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0))
    model.input = INPUT
    path = tmp_path_factory.mktemp("weights") / "named"
    save_model(path, model, labels=NAMES)
    return path


@pytest.fixture
def folders(videos: Path, tmp_path: Path) -> Path:
    """Class folders of training and test videos; the test has five of the eight classes."""
    shutil.copytree(videos / "test", tmp_path / "train")
    shutil.copytree(videos / "test", tmp_path / "test")
    for name in ("circling_clockwise", "growing", "moving_right"):
        shutil.rmtree(tmp_path / "test" / name)
    (tmp_path / "test" / "__MACOSX").mkdir()
    (tmp_path / "test" / "__MACOSX" / "1.mp4").write_bytes(b"")
    return tmp_path


def task(folders: Path, **data: Any) -> Recognition:
    fields = config.default()
    fields.model.update(num_classes=8, depth=10, width=0.125)
    data = {"train": str(folders / "train"), "test": str(folders / "test"), **data}
    fields.data.update(data)
    return Recognition(config.parse(fields))


def classes_of(source: Any) -> list[tuple[str, str]]:
    """The folder of each video, and the name of its label."""
    records = map(source.__getitem__, range(len(source)))
    return [(record.name.split("/")[0], source.class_names[record.label]) for record in records]


def test_a_test_folder_without_some_classes_keeps_the_labels_of_the_training_folder(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = task(folders)
    labels = opened.training_set().labels
    assert labels == sorted(name.replace(" ", "_") for name in NAMES)
    test = opened.test_set()
    found = classes_of(test._source)
    assert len(found) == 7
    assert all(folder == name for folder, name in found)
    assert test._source.class_names == tuple(labels)
    said = "test: no videos of 3 of the 8 classes of "
    assert said in capsys.readouterr().err


def test_folders_have_the_labels_of_the_checkpoint(folders: Path, checkpoint: Path) -> None:
    source = task(folders).test_set(str(checkpoint))._source
    assert list(source.class_names) == NAMES
    assert all(folder.replace("_", " ") == name for folder, name in classes_of(source))


def test_a_list_of_videos_that_are_not_there_is_refused_before_any_work(folders: Path) -> None:
    lines = [f"gone/{k}.mp4 0" for k in range(4)] + ["shrinking/00005.mp4 7"]
    (folders / "list.txt").write_text("\n".join(lines))
    shutil.copy(folders / "train/shrinking/00005.mp4", folders / "test/shrinking/00005.mp4")
    found = {"root": str(folders / "test")}
    opened = task(folders, test=str(folders / "list.txt"), **found)
    expected = "list.txt: 4 of 5 videos not found in .*test: 'gone/0.mp4', .* and 1 more; check"
    with pytest.raises(UserError, match=expected):
        opened.test_set()
    with pytest.raises(UserError, match=expected):  # more than training replaces
        task(folders, train=str(folders / "list.txt"), **found).training_set()
    (folders / "list.txt").write_text("\n".join(lines[1:]))
    assert len(task(folders, train=str(folders / "list.txt"), **found).training_set()) == 4


def test_an_unknown_class_is_refused_by_name(folders: Path, checkpoint: Path) -> None:
    (folders / "test" / "shrinking").rename(folders / "test" / "standing")
    opened = task(folders)
    with pytest.raises(UserError, match=r"test: 1 class not in .*train: 'standing'; expected"):
        opened.test_set()
    with pytest.raises(UserError, match="test: 1 class not in the checkpoint: 'standing'"):
        opened.test_set(str(checkpoint))


def test_a_list_is_matched_by_number_where_it_has_no_names(
    folders: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "test.txt").write_text("shrinking/00005.mp4 5\n")
    fields = {"test": str(folders / "test.txt"), "test_root": str(folders / "test")}
    assert classes_of(task(folders, **fields).test_set()._source) == [("shrinking", "moving_right")]
    assert "no class names; its labels are taken as the numbers of" in capsys.readouterr().err


def test_fine_tuning_follows_the_weights_unless_told_otherwise(checkpoint: Path) -> None:
    words = ["--config=finetune", f"--config.init={checkpoint}", "--config.data.crop_size=24"]
    fields = config.read(words)
    tiny = SqueezeTimeConfig.tiny()
    for name in ("depth", "width", "num_frames", "position_grids"):
        assert fields.model[name] == getattr(tiny, name)
    assert (fields.model.num_classes, fields.model.bn_group_size) == (0, 64)  # the config's
    data, evaluation = fields.data, fields.evaluation
    assert (data.frame_interval, data.short_side, data.crop_size) == (2, 40, 24)
    assert (evaluation.short_side, evaluation.crop_size, evaluation.num_clips) == (40, 32, 1)
    assert config.read(words[:2]).data.crop_size == 36
    published = config.read(["--config=finetune", "--config.init=/nowhere.pth"])
    assert (published.model.depth, published.data.crop_size) == (50, 224)


def test_weights_of_another_network_are_refused_with_what_to_do(checkpoint: Path) -> None:
    other = dataclasses.replace(SqueezeTimeConfig.tiny(), depth=18)
    with pytest.raises(UserError, match=r"the network that model describes: .* \d+ missing .*set"):
        load_for(str(checkpoint), other)


def test_a_classifier_of_the_same_classes_in_another_order_is_put_in_order() -> None:
    def build(seed: int) -> SqueezeTime:
        model = SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(seed))
        model.head.classifier.bias.set_value(jnp.arange(8.0) + 10 * seed)
        return model

    model, mine = build(0), sorted(NAMES)
    match_head(model, NAMES, mine, draw=lambda: build(1))
    found = [NAMES[int(k)] for k in np.asarray(model.head.classifier.bias[...])]
    assert found == mine
    before = {path: np.asarray(leaf[...]) for path, leaf in flat_leaves(model).items()}
    match_head(model, NAMES, [*mine[:7], "standing"], draw=lambda: build(1))
    np.testing.assert_array_equal(model.head.classifier.bias[...], np.arange(8) + 10)
    for path, leaf in flat_leaves(model).items():
        if not path.startswith("head."):
            np.testing.assert_array_equal(leaf[...], before[path])
