"""Sources: the same records whatever lies on disk, and mistakes told in one line."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data import prepare, sources
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError

NAMES = motion.CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return motion.write_motion_dataset(
        tmp_path_factory.mktemp("data") / "motion", num_train=10, num_test=8, size=32, num_frames=4
    )


def first_frame(record: sources.Record) -> np.ndarray:
    with record.open() as video:
        return video.frames([0])[0]


def test_an_annotation_list(folder):
    source = sources.annotation_list(folder / "test.txt", folder, folder / "label_map.txt")
    assert (len(source), source.num_classes, tuple(source.class_names)) == (8, 8, NAMES)
    record = source[3]
    assert (record.name, record.label) == ("test/moving_up/00003.mp4", 3)
    assert record.video == folder / "test/moving_up/00003.mp4"
    assert first_frame(record).shape == (32, 32, 3)


def test_paths_hold_spaces_and_exclamation_marks(folder, tmp_path):
    (tmp_path / "my videos!").mkdir()
    shutil.copy(folder / "test/moving_up/00003.mp4", tmp_path / "my videos!" / "Oh no! 2 3.mp4")
    (tmp_path / "list.txt").write_text("\nmy videos!/Oh no! 2 3.mp4   7\n\n")
    record = sources.annotation_list(tmp_path / "list.txt", tmp_path)[0]
    assert (record.name, record.label) == ("my videos!/Oh no! 2 3.mp4", 7)
    assert first_frame(record).shape == (32, 32, 3)


def test_a_folder_per_class(folder):
    source = sources.folder_per_class(folder / "test")
    classes = sorted(name.replace(" ", "_") for name in NAMES)
    assert list(source.class_names) == classes
    assert [record.label for record in map(source.__getitem__, range(8))] == list(range(8))
    assert source[0].name == "circling_clockwise/00006.mp4"


def test_a_label_map_orders_the_folders(folder, tmp_path):
    names = [name.replace(" ", "_") for name in NAMES] + ["standing"]
    (tmp_path / "map.txt").write_text("\n".join(names))
    source = sources.folder_per_class(folder / "test", tmp_path / "map.txt")
    assert (source.num_classes, len(source)) == (9, 8)
    assert {source[i].name: source[i].label for i in range(8)}["growing/00004.mp4"] == 4


@pytest.mark.parametrize("form", ["video", "jpeg"])
def test_prepared_shards_hold_the_same_records(folder, tmp_path, form):
    files = sources.annotation_list(folder / "test.txt", folder, folder / "label_map.txt")
    job = prepare.Job(
        files.videos, folder, tmp_path / "shards", "test", form=form, class_names=NAMES
    )
    prepare.prepare(job, processes=1)
    source = sources.open_source(tmp_path / "shards", split="test")
    assert (len(source), source.num_classes, tuple(source.class_names)) == (8, 8, NAMES)
    source = pickle.loads(pickle.dumps(source))
    for i in range(8):
        assert (source[i].name, source[i].label) == (files[i].name, files[i].label)
        difference = np.abs(first_frame(source[i]).astype(int) - first_frame(files[i]))
        assert difference.mean() < 9  # coded twice
    assert len(sources.open_source(tmp_path / "shards", split="test[:3]")) == 3
    with pytest.raises(UserError, match=r"has no split 'train', only test"):
        sources.open_source(tmp_path / "shards", split="train")
    with pytest.raises(UserError, match="say which"):
        sources.open_source(tmp_path / "shards")


def test_open_source_tells_the_kinds_apart(folder):
    assert len(sources.open_source(folder / "train.txt")) == 10
    assert len(sources.open_source(folder / "train.txt", root=folder)) == 10
    assert len(sources.open_source(folder / "train")) == 10
    with pytest.raises(UserError, match="nowhere: found neither file nor folder; wanted"):
        sources.open_source(folder / "nowhere")


def test_a_folder_that_is_no_tfds_data_set(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{broken")
    with pytest.raises(UserError, match="is no data set that TFDS opens"):
        sources.open_source(tmp_path, split="train")


def test_mistakes_are_told_in_one_line(folder, tmp_path):
    (tmp_path / "bad.txt").write_text("a.mp4 0\nb.mp4 many\n")
    (tmp_path / "high.txt").write_text("a.mp4 0\nb.mp4 8\n")
    (tmp_path / "map.txt").write_text("growing\n")
    (tmp_path / "empty" / "class").mkdir(parents=True)
    cases = [
        (lambda: sources.annotation_list(tmp_path / "bad.txt", folder), r"bad.txt, line 2: found"),
        (
            lambda: sources.annotation_list(
                tmp_path / "high.txt", folder, folder / "label_map.txt"
            ),
            r"'b.mp4' has label 8, but .*label_map.txt names 8 classes \(0 to 7\)",
        ),
        (lambda: sources.annotation_list(tmp_path / "high.txt", tmp_path / "no"), "no such folder"),
        (lambda: sources.folder_per_class(tmp_path / "empty"), "found no video in its 1 folders"),
        (lambda: sources.folder_per_class(tmp_path / "no"), "no such folder"),
        (
            lambda: sources.folder_per_class(folder / "test", tmp_path / "map.txt"),
            r"folder 'circling_clockwise' is no class of .*map.txt \(7 such\)",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_record_that_is_no_video_names_itself(tmp_path):
    (tmp_path / "list.txt").write_text("gone.mp4 0\n")
    record = sources.annotation_list(tmp_path / "list.txt", tmp_path)[0]
    with pytest.raises(UserError, match="gone"):
        first_frame(record)
